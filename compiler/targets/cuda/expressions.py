"""Print a scalar expression over a tile of elements, in Triton."""

from collections.abc import Callable

from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import Node
from pagedc.compiler.rows.kernel import Expr
from pagedc.compiler.targets.cuda.tiles import Tile

INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&",
    "or": "|",
}
CALLS = {
    "exp": "tl.exp",
    "log": "tl.log",
    "erf": "tl.erf",
    "sin": "tl.sin",
    "cos": "tl.cos",
    "sqrt": "tl.sqrt",
    "rsqrt": "tl.rsqrt",
    "abs": "tl.abs",
    "floor": "tl.floor",
    "maximum": "tl.maximum",
    "minimum": "tl.minimum",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "log1p": "log1p",
    "mod": "modulo",
    "floordiv": "floor_divide",
}
INTEGER_CALLS = {"mod": "modulo_int", "floordiv": "floor_divide_int", "div": "floor_divide_int"}
TYPES = {"float32": "tl.float32", "bfloat16": "tl.float32", "int32": "tl.int32", "bool": "tl.int1"}
MATH = ("tanh", "sigmoid", "log1p", "power", "modulo", "modulo_int", "floor_divide", "floor_divide_int")


class Memory:
    """Where a kernel's stored values lie: the text of a pointer, or the variable that holds one."""

    def __init__(self, pointers: dict[Node, str], variables: dict[Node, str]) -> None:
        self.pointers = pointers
        self.variables = variables


class ExpressionPrinter:
    """Prints one expression; what is used more than once becomes a line of `lines`."""

    def __init__(self, memory: Memory, tile: Tile, root: Expr, fresh: Callable[[str], str]) -> None:
        self.memory = memory
        self.tile = tile
        self.fresh = fresh  # a name that nothing has
        self.lines: list[str] = []
        self._uses: dict[int, int] = {}
        self._known: dict[int, str] = {}
        self._count(root)
        self.value = (
            f"tl.cast({number(root)}, {TYPES[root.dtype]})" if root.op == "number" else self.text(root)
        )

    def _count(self, expr: Expr) -> None:
        self._uses[id(expr)] = self._uses.get(id(expr), 0) + 1
        if self._uses[id(expr)] == 1:
            for arg in expr.args:
                self._count(arg)

    def text(self, expr: Expr) -> str:
        """The expression, or the name of the variable that holds it."""
        if self._uses[id(expr)] == 1 or expr.op == "number":
            return self._text(expr)
        if id(expr) not in self._known:
            value = self._text(expr)
            name = self._named(value)
            self._known[id(expr)] = name
        return self._known[id(expr)]

    def _named(self, value: str) -> str:
        name = self.fresh("t")
        self.lines.append(f"{name} = {value}")
        return name

    def _text(self, expr: Expr) -> str:
        match expr.op:
            case "number":
                return number(expr)
            case "load":
                return self._load(expr)
            case "pow":
                return self._power(expr)
        args = [self.text(arg) for arg in expr.args]
        if expr.dtype == "int32" and expr.op in INTEGER_CALLS:
            return f"{INTEGER_CALLS[expr.op]}({', '.join(args)})"
        if expr.op in INFIX:
            return f"({args[0]} {INFIX[expr.op]} {args[1]})"
        if expr.op in CALLS:
            return f"{CALLS[expr.op]}({', '.join(args)})"
        match expr.op:
            case "neg":
                return f"(-{args[0]})"
            case "not":
                return f"({args[0]} == 0)"
            case "reciprocal":
                return f"(1.0 / {args[0]})"
            case "where":
                return f"tl.where({', '.join(args)})"
            case "cast":
                return self._cast(expr, args[0])
        raise InternalError(f"no Triton for {expr.op}")

    def _load(self, expr: Expr) -> str:
        if expr.value is None or expr.offset is None:
            raise InternalError("a load of nothing")
        if expr.value in self.memory.variables:
            return self.memory.variables[expr.value]
        position = self.tile.spell(expr.offset)
        if expr.args:
            where = self.text(expr.args[0])
            position = (
                f"{position} + {where}" if expr.stride == 1 else f"{position} + {expr.stride} * {where}"
            )
        is_single = not expr.args and not expr.offset.terms
        mask = f", {self.tile.mask}, other=0" if self.tile.mask and not is_single else ""
        load = f"tl.load({self.memory.pointers[expr.value]} + {position}{mask})"
        if expr.dtype == "bfloat16":
            return f"{load}.to(tl.float32)"
        return f"({load} != 0)" if expr.dtype == "bool" else load

    def _cast(self, expr: Expr, value: str) -> str:
        source = expr.args[0]
        if expr.dtype == "bfloat16" or source.dtype == expr.dtype:
            return value  # rounded where it is stored
        if source.op == "number":
            return number(Expr("number", (), expr.dtype, number=source.number))
        return f"({value} != 0)" if expr.dtype == "bool" else f"{value}.to({TYPES[expr.dtype]})"

    def _power(self, expr: Expr) -> str:
        base, exponent = expr.args
        x = self.text(base)
        if exponent.op == "number":
            if exponent.number in (2, 3, 4):
                name = x if x.isidentifier() else self._named(x)
                return f"({' * '.join([name] * int(exponent.number))})"
            if exponent.number == 0.5:
                return f"tl.sqrt({x})"
            if exponent.number == -0.5:
                return f"tl.rsqrt({x})"
        return f"power({x}, {self.text(exponent)})"


def number(expr: Expr) -> str:
    """A literal. Infinities and NaN have none."""
    if expr.dtype == "bool":
        return "True" if expr.number else "False"
    if expr.dtype == "int32":
        return str(int(expr.number))
    value = float(expr.number)
    if value != value or abs(value) > 3.4028235e38:
        return f'float("{"nan" if value != value else "inf" if value > 0 else "-inf"}")'
    text = f"{value:.9g}"
    text = text if any(character in text for character in ".e") else text + ".0"
    return text if value >= 0 else f"({text})"
