"""Print a row kernel as a Triton kernel: one program a token.

Each stage runs over blocks of its loops, flattened. A value of one element stays in a register; others that
a later stage reads go through memory, `scratch` where no one else needs them, with a barrier between: the
threads of a program hold different elements in each stage.
"""

import re
from dataclasses import replace
from math import prod

from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import Node
from pagedc.compiler.rows.affine import Affine, Var
from pagedc.compiler.rows.kernel import Box, Expr, RowKernel, Stage
from pagedc.compiler.targets.cuda.arch import BLOCK_SIZE
from pagedc.compiler.targets.cuda.cache_stores import CacheStore
from pagedc.compiler.targets.cuda.expressions import TYPES, ExpressionPrinter, Memory
from pagedc.compiler.targets.cuda.tiles import Tile, flat, table

COMBINE = {"sum": "{} + {}", "max": "tl.maximum({}, {})", "min": "tl.minimum({}, {})"}
IDENTITY = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}
INTEGER_IDENTITY = {"sum": "0", "max": "-2147483648", "min": "2147483647"}
CACHE = ("k_cache", "v_cache", "slot_mapping")  # parameters of a kernel that stores K and V
TWO_WARPS = 512  # elements of the widest block from which a program has more warps than one


def parameters(kernel: RowKernel, store: CacheStore | None = None) -> dict[Node, str]:
    """The names of what is passed in: in0, in1, …, out0, …; CACHE and `scratch` follow where there is any."""
    names = {node: f"in{position}" for position, node in enumerate(kernel.inputs)}
    stored = None if store is None else store.k
    return names | {node: f"out{i}" for i, node in enumerate(kernel.outputs) if i != stored}


def scratch_elements(kernel: RowKernel) -> int:
    """Cells of 4 bytes that a token needs for values that several stages read."""
    return sum(node.size for node in kernel.locals if not _is_single(node))


def num_warps(kernel: RowKernel) -> int:
    """Warps of a program: 16 elements a thread in the widest block, at most 8 warps."""
    widest = 1
    for stage in kernel.stages:
        for box in stage.boxes:
            widest = max(widest, prod(var.size for var in (*box.loops, *box.reduced)))
    return min(max(widest // TWO_WARPS * 2, 1), 8)


def origin_lines(origins: list[str]) -> list[str]:
    """Comments: the modules that a kernel stands for, layers as one."""
    return [f"# {origin}" for origin in dict.fromkeys(re.sub(r"\.\d+\b", ".*", o) for o in origins)]


def print_signature(kernel: RowKernel, name: str, store: CacheStore | None = None) -> str:
    """`def name(in0, …, out0, scratch, …):`."""
    words = [*parameters(kernel, store).values(), *(CACHE if store else ())]
    words += ["scratch"] if scratch_elements(kernel) else []
    return f"def {name}({', '.join(words)}, PDL: tl.constexpr, INTERPRET: tl.constexpr):"


def print_body(kernel: RowKernel, store: CacheStore | None = None) -> str:
    """The statements of the kernel. The text depends on structure alone, so equal kernels print equally."""
    return "\n".join(_Printer(kernel, store).run())


class _Printer:
    def __init__(self, kernel: RowKernel, store: CacheStore | None) -> None:
        self.kernel, self.store = kernel, store
        self.lines: list[str] = []
        self.indent = "    "
        pointers = parameters(kernel, store)
        self.memory = Memory(pointers, {})
        self.names: dict[str, int] = {}
        self.written: set[Node] = set()  # since the last barrier

    def run(self) -> list[str]:
        """All lines."""
        self._line("token = tl.program_id(0).to(tl.int64)")
        for node, name in self.memory.pointers.items():
            if node.domain != "const":
                self._line(f"{name} += token * {node.size}")
        self._scratch()
        if self.store:
            self._line("slot = tl.load(slot_mapping + token)")
        self._line("wait_for_inputs(PDL)")
        self._line("let_next_start(PDL)")
        for stage in self.kernel.stages:
            if _needs_start(stage):
                self._start(stage.node)
            for box in stage.boxes:
                self._barrier(box)
                self._box(stage, box)
        if self.store:
            self._copy_values(self.store)
        return self.lines

    def _fresh(self, name: str) -> str:
        """A loop may not change a variable's type, so each block has its own names."""
        self.names[name] = self.names.get(name, -1) + 1
        return f"{name}{self.names[name]}"

    def _line(self, text: str) -> None:
        self.lines.append(self.indent + text)

    def _scratch(self) -> None:
        offset = 0
        total = scratch_elements(self.kernel)
        if total:
            self._line(f"scratch += token * {total}")
        for node in self.kernel.locals:
            if _is_single(node):
                continue
            name = self._fresh("v")
            place = f"scratch + {offset}" if offset else "scratch"
            if node.dtype in ("int32", "bool"):
                place = f"({place}).to(tl.pointer_type(tl.int32), bitcast=True)"
            self._line(f"{name} = {place}")
            self.memory.pointers[node] = name
            offset += node.size

    def _barrier(self, box: Box) -> None:
        """Before a box reads what other threads wrote."""
        if (_loaded(box.expr) - set(self.memory.variables)) & self.written:
            self._line("tl.debug_barrier()")
            self.written = set()

    def _box(self, stage: Stage, box: Box) -> None:
        node = stage.node
        if node.op == "topk_index":
            self._topk(node, box)
        elif node.op == "cumsum" and box.reduced:
            self._cumsum(node, box)
        elif node.op in COMBINE:
            self._reduction(stage, box)
        else:
            self._pointwise(node, box)

    # Stages.

    def _pointwise(self, node: Node, box: Box) -> None:
        tile = flat(self._fresh("i"), box.loops)
        depth = self._enter(tile)
        value = self._expression(box.expr, tile)
        self._store(node, tile, box.offset, value)
        self._leave(depth)

    def _start(self, node: Node) -> None:
        """Ranges of a value are reduced one by one: begin with what changes nothing."""
        tile = flat(self._fresh("i"), (Var("i", node.size),))
        depth = self._enter(tile)
        self._store(node, tile, Affine.of(Var("i", node.size)), self._identity(node))
        self._leave(depth)

    def _reduction(self, stage: Stage, box: Box) -> None:
        node = stage.node
        if prod(var.size for var in box.loops) == 1:  # one result: every thread helps
            tile = flat(self._fresh("c"), box.reduced)
            rows = Tile()
        else:
            tile = table((self._fresh("r"), self._fresh("c")), box.loops, box.reduced, whole=False)
            rows = Tile(tile.axes[:1])
        columns = Tile(tile.axes[len(rows.axes) :])
        depth = self._enter(rows)
        acc = self._fresh("acc")
        many = any(axis.size > axis.block for axis in columns.axes)
        if many:
            self._line(f"{acc} = tl.full({tile.shape}, {self._identity(node)}, {TYPES[node.dtype]})")
        inner = self._enter(columns)
        value = self._masked(node, self._expression(box.expr, tile), tile)
        self._line(f"{acc} = {COMBINE[node.op].format(acc, value)}" if many else f"{acc} = {value}")
        self._leave(inner)
        total = f"tl.{node.op}({acc}, {len(rows.axes)})" if columns.axes else acc
        out = Tile(tuple(replace(axis, suffix="") for axis in rows.axes))
        if stage.boxes[0] is not box or _needs_start(stage):
            total = COMBINE[node.op].format(self._before(node, out, box.offset), total)
        self._store(node, out, box.offset, total)
        self._leave(depth)

    def _before(self, node: Node, tile: Tile, offset: Affine) -> str:
        """What earlier ranges of the reduction left."""
        if node in self.memory.variables:
            return self.memory.variables[node]
        self._line("tl.debug_barrier()")
        mask = f", {tile.mask}" if tile.mask else ""
        return f"tl.load({self.memory.pointers[node]} + {tile.spell(offset)}{mask})"

    def _cumsum(self, node: Node, box: Box) -> None:
        tile = table((self._fresh("r"), self._fresh("c")), box.loops, box.reduced, whole=True)
        depth = self._enter(Tile(tile.axes[:1]))
        inner = self._enter(Tile(tile.axes[1:]))
        value = self._masked(node, self._expression(box.expr, tile), tile, "0")
        self._store(node, tile, box.offset, f"tl.cumsum({value}, 1)")
        self._leave(inner)
        self._leave(depth)

    def _topk(self, node: Node, box: Box) -> None:
        """The places of the k largest, the lower place first where two are equal."""
        size, k = node.inputs[0].shape[-1], node.attrs["k"]
        source, base = box.expr.value, box.expr.offset
        if source is None or base is None:
            raise InternalError(f"{node.name}: its source is not stored")
        column = Var("c", size)
        tile = table((self._fresh("r"), self._fresh("c")), box.loops, (column,), whole=True)
        rows, columns = tile.axes
        depth = self._enter(Tile((rows,)))
        self._enter(Tile((columns,)))
        load = Expr("load", (), source.dtype, source, base + Affine.of(column))
        out = Tile((replace(rows, suffix=""),))
        mask = f", {out.mask}" if out.mask else ""
        where = f"{out.spell(box.offset)} + k" + (f" + {rows.name}" if rows.size == 1 else "")
        values, place, rest, best, index = map(self._fresh, ("values", "place", "rest", "best", "index"))
        self._line(f"{values} = tl.broadcast_to({self._expression(load, tile)}, {tile.shape})")
        self._line(f"{place} = tl.broadcast_to({columns.name}[None, :], {tile.shape})")
        self._line(f"{rest} = {place} < {size}")
        self._line(f"for k in range({k}):")
        for line in (
            f'{best} = tl.max(tl.where({rest}, {values}, float("-inf")), 1)',
            f"{index} = tl.min(tl.where({rest} & ({values} == {best}[:, None]), {place}, {size}), 1)",
            f"{index} = tl.minimum({index}, {size - 1})  # NaN equals nothing",
            f"tl.store({self.memory.pointers[node]} + {where}, {index}{mask})",
            f"{rest} = {rest} & ({place} != {index}[:, None])",
        ):
            self._line(f"    {line}")
        self.written.add(node)
        self._leave(depth)

    def _copy_values(self, store: CacheStore) -> None:
        """V to the cache."""
        var = Var("i", store.num_kv_heads * store.v_head_dim)
        source = store.v_node(self.kernel)
        expr = Expr("load", (), source.dtype, source, Affine.of(var).shift(store.v_offset))
        self._barrier(Box((var,), (), expr, Affine.of(var)))
        tile = flat(self._fresh("i"), (var,))
        depth = self._enter(tile)
        self._store_in_cache("v_cache", store.v_head_dim, tile, Affine.of(var), self._expression(expr, tile))
        self._leave(depth)

    # Parts.

    def _store_in_cache(self, cache: str, width: int, tile: Tile, offset: Affine, value: str) -> None:
        heads = 0 if self.store is None else self.store.num_kv_heads
        place = f"place_of_elements(slot, {tile.spell(offset)}, {heads}, {BLOCK_SIZE}, {width})"
        mask = f", {tile.mask}" if tile.mask else ""
        self._line("if slot >= 0:  # a token that is no padding")
        self._line(f"    tl.store({cache} + {place}, {value}{mask})")

    def _enter(self, tile: Tile) -> int:
        """Declare the indexes of a tile's axes, in a loop where one block is too small."""
        depth = 0
        for axis in tile.axes:
            lanes = f"tl.arange(0, {axis.block})"
            if axis.size > axis.block:
                self._line(f"for {axis.name}_start in range(0, {axis.size}, {axis.block}):")
                self.indent += "    "
                depth += 1
                lanes = f"{axis.name}_start + {lanes}"
            self._line(f"{axis.name} = {lanes}")
        return depth

    def _leave(self, depth: int) -> None:
        self.indent = self.indent[: len(self.indent) - 4 * depth]

    def _expression(self, expr: Expr, tile: Tile) -> str:
        printer = ExpressionPrinter(self.memory, tile, expr, self._fresh)
        for line in printer.lines:
            self._line(line)
        return printer.value

    def _identity(self, node: Node) -> str:
        return (IDENTITY if node.dtype in ("float32", "bfloat16") else INTEGER_IDENTITY)[node.op]

    def _masked(self, node: Node, value: str, tile: Tile, neutral: str | None = None) -> str:
        """The value in the shape of the tile, idle lanes neutral."""
        if tile.mask:
            value = f"tl.where({tile.mask}, {value}, {neutral or self._identity(node)})"
        return f"tl.broadcast_to({value}, {tile.shape})"

    def _store(self, node: Node, tile: Tile, offset: Affine, value: str) -> None:
        if node.dtype == "bfloat16" and node not in self.kernel.outputs:
            value = f"({value}).to(tl.bfloat16).to(tl.float32)"
        if _is_single(node):
            variable = self.memory.variables.setdefault(node, f"s{len(self.memory.variables)}")
            self._line(f"{variable} = {value}")
            value = variable
            if node not in self.memory.pointers:
                return
        if self.store and node is self.kernel.outputs[self.store.k]:
            self._store_in_cache("k_cache", self.store.head_dim, tile, offset, value)
            return
        if node.dtype == "bool":
            value = f"tl.where({value}, 1, 0)"
        mask = f", {tile.mask}" if tile.mask else ""
        self._line(f"tl.store({self.memory.pointers[node]} + {tile.spell(offset)}, {value}{mask})")
        self.written.add(node)


def _is_single(node: Node) -> bool:
    """Whether it stays in a register. What is stored piece by piece lies in memory."""
    return node.size == 1 and node.op not in ("topk_index", "cumsum")


def _needs_start(stage: Stage) -> bool:
    """Whether boxes of a reduction fill different parts of its value."""
    return stage.node.op in COMBINE and any(
        prod(var.size for var in box.loops) != stage.node.size for box in stage.boxes
    )


def _loaded(expr: Expr) -> set[Node]:
    found = {expr.value} if expr.value is not None else set()
    for arg in expr.args:
        found |= _loaded(arg)
    return found
