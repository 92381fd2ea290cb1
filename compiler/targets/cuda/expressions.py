"""Print a scalar expression over a tile of elements, in Triton."""

from collections.abc import Callable

from pagedc.compiler.graph import Node
from pagedc.compiler.rows.affine import Affine
from pagedc.compiler.rows.kernel import Expr
from pagedc.compiler.targets import expressions
from pagedc.compiler.targets.cuda.tiles import Tile
from pagedc.compiler.targets.expressions import ARITHMETIC, decimal

FORMS = ARITHMETIC | {
    "and": "({} & {})",
    "or": "({} | {})",
    "not": "({} == 0)",
    "exp": "tl.exp({})",
    "log": "tl.log({})",
    "erf": "tl.erf({})",
    "sin": "tl.sin({})",
    "cos": "tl.cos({})",
    "sqrt": "tl.sqrt({})",
    "rsqrt": "tl.rsqrt({})",
    "abs": "tl.abs({})",
    "floor": "tl.floor({})",
    "maximum": "tl.maximum({}, {})",
    "minimum": "tl.minimum({}, {})",
    "where": "tl.where({}, {}, {})",
    "reciprocal": "(1.0 / {})",
    "tanh": "tanh({})",
    "sigmoid": "sigmoid({})",
    "log1p": "log1p({})",
    "mod": "modulo({}, {})",
    "floordiv": "floor_divide({}, {})",
}
INTEGER_FORMS = {
    "mod": "modulo_int({}, {})",
    "floordiv": "floor_divide_int({}, {})",
    "div": "floor_divide_int({}, {})",
}
TYPES = {"float32": "tl.float32", "bfloat16": "tl.float32", "int32": "tl.int32", "bool": "tl.int1"}
MATH = ("tanh", "sigmoid", "log1p", "power", "modulo", "modulo_int", "floor_divide", "floor_divide_int")


class Memory:
    """Where a kernel's stored values lie: the text of a pointer, or the variable that holds one."""

    def __init__(self, pointers: dict[Node, str], variables: dict[Node, str]) -> None:
        self.pointers = pointers
        self.variables = variables


class ExpressionPrinter(expressions.ExpressionPrinter):
    """Prints one expression; what is used more than once becomes a line of `lines`."""

    forms = FORMS

    def __init__(self, memory: Memory, tile: Tile, root: Expr, fresh: Callable[[str], str]) -> None:
        super().__init__(root)
        self.memory = memory
        self.tile = tile
        self.fresh = fresh  # a name that nothing has
        self.lines: list[str] = []
        self.value = self.text(root)
        if root.op == "number":
            self.value = f"tl.cast({self.value}, {TYPES[root.dtype]})"

    def variable(self, expr: Expr, value: str) -> str:
        """A line of its own."""
        name = self.fresh("t")
        self.lines.append(f"{name} = {value}")
        return name

    def operation(self, expr: Expr) -> str:
        """Integers have divisions of their own, powers shorter forms."""
        if expr.op == "pow":
            return self._power(expr)
        if expr.dtype == "int32" and expr.op in INTEGER_FORMS:
            return INTEGER_FORMS[expr.op].format(*map(self.text, expr.args))
        return super().operation(expr)

    def number(self, expr: Expr) -> str:
        """Infinities and NaN have no literal."""
        if expr.dtype == "bool":
            return "True" if expr.number else "False"
        if expr.dtype == "int32":
            return str(int(expr.number))
        value = float(expr.number)
        if value != value or abs(value) > 3.4028235e38:
            return f'float("{"nan" if value != value else "inf" if value > 0 else "-inf"}")'
        return decimal(value) if value >= 0 else f"({decimal(value)})"

    def load(self, expr: Expr, node: Node, offset: Affine) -> str:
        """From memory, idle lanes zero, or the variable."""
        if node in self.memory.variables:
            return self.memory.variables[node]
        position = self.tile.spell(offset)
        if expr.args:
            where = self.text(expr.args[0])
            position = (
                f"{position} + {where}" if expr.stride == 1 else f"{position} + {expr.stride} * {where}"
            )
        mask = f", {self.tile.mask}, other=0" if self.tile.mask and not _is_single(expr) else ""
        load = f"tl.load({self.memory.pointers[node]} + {position}{mask})"
        if expr.dtype == "bfloat16":
            return f"{load}.to(tl.float32)"
        return f"({load} != 0)" if expr.dtype == "bool" else load

    def cast(self, expr: Expr, value: str) -> str:
        """A literal is written in the other type."""
        source = expr.args[0]
        if source.op == "number":
            return self.number(Expr("number", (), expr.dtype, number=source.number))
        return f"({value} != 0)" if expr.dtype == "bool" else f"{value}.to({TYPES[expr.dtype]})"

    def _power(self, expr: Expr) -> str:
        base, exponent = expr.args
        x = self.text(base)
        if exponent.op == "number":
            if exponent.number in (2, 3, 4):
                name = x if x.isidentifier() else self.variable(base, x)
                return f"({' * '.join([name] * int(exponent.number))})"
            if exponent.number == 0.5:
                return f"tl.sqrt({x})"
            if exponent.number == -0.5:
                return f"tl.rsqrt({x})"
        return f"power({x}, {self.text(exponent)})"


def _is_single(expr: Expr) -> bool:
    """Whether all lanes have the same value: then it has no mask, for its address is not a block of them."""
    return not (expr.offset and expr.offset.terms) and all(_is_single(value) for value in expr.args)
