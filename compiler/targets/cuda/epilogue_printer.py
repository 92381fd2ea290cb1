"""Print a row kernel as a linear's epilogue: what becomes of a tile [tokens, columns] before it is stored.

The tile is in registers and so is everything made of it. Where the weight's rows stand in stripes, the tile
holds 16 columns of each half in turn: it is taken apart first.
"""

from pagedc.compiler.epilogues import STRIPE
from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import Node
from pagedc.compiler.rows.affine import Affine
from pagedc.compiler.rows.kernel import Expr, RowKernel, Stage
from pagedc.compiler.targets.cuda.expressions import ExpressionPrinter, Memory
from pagedc.compiler.targets.cuda.row_printer import origin_lines
from pagedc.compiler.targets.cuda.tiles import Tile

EXTRA = 6  # arguments behind `out`, as kernels/triton/linear.py passes them


def extra_arguments(kernel: RowKernel, inputs: tuple[str, ...]) -> dict[Node, str]:
    """What the epilogue is given behind the first output, by name; `inputs` are the kinds of its inputs."""
    pairs = zip(kernel.inputs, inputs, strict=True)
    names = {node: f"in{i}" for i, (node, kind) in enumerate(pairs) if kind != "a"}
    return names | {node: f"out{i}" for i, node in enumerate(kernel.outputs) if i}


def print_epilogue(
    name: str, kernel: RowKernel, inputs: tuple[str, ...], stripes: int, origins: list[str]
) -> str:
    """The whole function. `inputs` says which of the kernel's inputs is the tile."""
    extra = extra_arguments(kernel, inputs)
    words = ["acc", "tokens", "token_mask", "first_column", "out0", *extra.values()]
    words += [f"_{position}" for position in range(len(extra), EXTRA)]
    tile = next(node for node, kind in zip(kernel.inputs, inputs, strict=True) if kind == "a")
    lines = _Printer(kernel, tile, extra, stripes).run()
    head = [*origin_lines(origins), "@triton.jit", f"def {name}({', '.join(words)}):"]
    return "\n".join([*head, *(f"    {line}" for line in lines)])


class _Printer:
    def __init__(self, kernel: RowKernel, tile: Node, extra: dict[Node, str], stripes: int) -> None:
        self.kernel, self.tile, self.stripes = kernel, tile, stripes
        self.pointers = extra | {kernel.outputs[0]: "out0"}
        self.width = kernel.outputs[0].size
        self.lines: list[str] = []
        self.values: dict[tuple[Node, int], str] = {}  # (value, how far from the column) → variable
        self.names: dict[str, int] = {}

    def run(self) -> list[str]:
        """All lines."""
        if self.stripes == 1:
            self.values[self.tile, 0] = "acc"
            self.lines.append("columns = first_column + tl.arange(0, acc.shape[1])")
        else:
            self.values |= {(self.tile, STRIPE * part): f"acc{part}" for part in range(2)}
            self.lines.append("acc0, acc1 = split_stripes(acc)")
            self.lines.append("columns = first_column // 2 + tl.arange(0, acc0.shape[1])")
        self.lines.append(f"mask = token_mask[:, None] & (columns < {self.width})[None, :]")
        for stage in self.kernel.stages:
            self._stage(stage)
        return self.lines

    def load(self, node: Node, distance: int) -> str:
        """The variable that holds a value of the tile's tokens and columns."""
        key = node, distance
        if key not in self.values:
            self.values[key] = self._fresh("x")
            self.lines.append(f"{self.values[key]} = {self._load(node, distance)}")
        return self.values[key]

    def _load(self, node: Node, distance: int) -> str:
        pointer = self.pointers[node]
        if node.size > 1:
            place, mask = "columns[None, :]", f"(columns < {self.width})[None, :]"
            place += f" + {distance}" if distance else ""
            if node.domain != "const":
                place, mask = f"tokens[:, None] * {node.size} + {place}", "mask"
            load = f"tl.load({pointer} + {place}, {mask}, other=0)"
        elif node.domain == "const":
            load = f"tl.load({pointer})"
        else:
            load = f"tl.load({pointer} + tokens, token_mask, other=0)[:, None]"
        if node.dtype == "bfloat16":
            return f"{load}.to(tl.float32)"
        return f"({load} != 0)" if node.dtype == "bool" else load

    def _stage(self, stage: Stage) -> None:
        node, (box,) = stage.node, stage.boxes
        value = _Expression(self, box.expr).value
        name = self._fresh("y")
        self.lines.append(f"{name} = {value}")
        stored = f"tl.where({name}, 1, 0)" if node.dtype == "bool" else name
        place = f"tokens[:, None] * {node.size} + columns[None, :]"
        self.lines.append(f"tl.store({self.pointers[node]} + {place}, {stored}, mask)")
        # A later stage reads what memory would have given it.
        rounded = f"{name}.to(tl.bfloat16).to(tl.float32)" if node.dtype == "bfloat16" else name
        self.values[node, 0] = rounded

    def _fresh(self, name: str) -> str:
        self.names[name] = self.names.get(name, -1) + 1
        return f"{name}{self.names[name]}"


class _Expression(ExpressionPrinter):
    """Its lines are the epilogue's."""

    def __init__(self, printer: _Printer, root: Expr) -> None:
        self._printer = printer
        super().__init__(Memory({}, {}), Tile(), root, printer._fresh)

    def load(self, expr: Expr, node: Node, offset: Affine) -> str:
        if expr.args:
            raise InternalError("an epilogue loads a value by its column")
        return self._printer.load(node, offset.constant)

    def variable(self, expr: Expr, value: str) -> str:
        name = self.fresh("t")
        self._printer.lines.append(f"{name} = {value}")
        return name
