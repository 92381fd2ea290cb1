"""Print a row kernel as a C++ function over one token."""

from math import prod

from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import Node
from pagedc.compiler.rows.affine import Affine, Var
from pagedc.compiler.rows.kernel import Box, Expr, RowKernel, Stage

CTYPES = {"float32": "float", "bfloat16": "bf16", "int32": "int32_t", "bool": "int32_t"}
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
}
INFIX |= {"and": "&&", "or": "||"}
CALLS = {
    "exp": "math::exp",
    "log": "math::log",
    "log1p": "math::log1p",
    "tanh": "math::tanh",
    "erf": "math::erf",
}
CALLS |= {
    "sigmoid": "math::sigmoid",
    "sin": "math::sin",
    "cos": "math::cos",
    "pow": "math::pow",
    "sqrt": "sqrtf",
}
CALLS |= {"abs": "fabsf", "floor": "floorf", "maximum": "maximum", "minimum": "minimum", "mod": "modulo"}
CALLS |= {"floordiv": "floor_divide"}
REDUCERS = {"sum": ("0", "+"), "max": ("-INFINITY", "max"), "min": ("INFINITY", "min")}


def parameters(kernel: RowKernel) -> dict[Node, str]:
    """The names of what is passed in: in0, in1, …, out0, …"""
    names = {node: f"in{position}" for position, node in enumerate(kernel.inputs)}
    return names | {node: f"out{position}" for position, node in enumerate(kernel.outputs)}


def print_signature(kernel: RowKernel, name: str) -> str:
    """`static inline void name(const float* in0, …, float* out0)`."""
    names = parameters(kernel)
    words = [f"const {CTYPES[node.dtype]}* PAGEDC_RESTRICT {names[node]}" for node in kernel.inputs]
    words += [f"{CTYPES[node.dtype]}* {names[node]}" for node in kernel.outputs]
    return f"static inline void {name}({', '.join(words)})"


def print_body(kernel: RowKernel) -> str:
    """The statements of the function. The text depends on structure alone, so equal kernels print equally."""
    names = parameters(kernel)
    lines: list[str] = []
    for position, node in enumerate(kernel.locals):
        names[node] = f"v{position}"
        lines.append(f"  alignas(64) {CTYPES[node.dtype]} v{position}[{max(node.size, 1)}];")
    for stage in kernel.stages:
        lines += _print_stage(stage, names)
    return "\n".join(lines)


def _print_stage(stage: Stage, names: dict[Node, str]) -> list[str]:
    node, target = stage.node, names[stage.node]
    lines = []
    if node.op in REDUCERS:
        start = _start(node)
        lines.append(f"  for (int i = 0; i < {node.size}; ++i) {target}[i] = {start};")
    for box in stage.boxes:
        if node.op == "topk_index":
            lines += _print_topk(node, box, target, names)
        elif node.op in REDUCERS:
            lines += _print_reduction(node, box, target, names)
        elif node.op == "cumsum":
            lines += _print_cumsum(node, box, target, names)
        else:
            shared, value = _expression(box.expr, names)
            store = f"{target}[{_affine(box.offset)}] = {_stored(value, node.dtype)};"
            lines += _loops(box.loops, [*shared, store], simd=True)
    return lines


def _start(node: Node) -> str:
    if node.dtype == "float32":
        return REDUCERS[node.op][0]
    return {"sum": "0", "max": "INT32_MIN", "min": "INT32_MAX"}[node.op]


def _print_reduction(node: Node, box: Box, target: str, names: dict[Node, str]) -> list[str]:
    ctype, operator = CTYPES[node.dtype], REDUCERS[node.op][1]
    cell = f"{target}[{_affine(box.offset)}]"
    shared, value = _expression(box.expr, names)
    step = f"acc += {value};" if operator == "+" else f"acc = {operator}imum(acc, {value});"
    inner = _loops(box.reduced, [*shared, step], simd=True, clause=f" reduction({operator}:acc)")
    inner = [f"{ctype} acc = {cell};", *[line.removeprefix("  ") for line in inner], f"{cell} = acc;"]
    return _loops(box.loops, inner, simd=False)


def _print_cumsum(node: Node, box: Box, target: str, names: dict[Node, str]) -> list[str]:
    shared, value = _expression(box.expr, names)
    inner = _loops(
        box.reduced, [*shared, f"acc += {value};", f"{target}[{_affine(box.offset)}] = acc;"], simd=False
    )
    inner = [f"{CTYPES[node.dtype]} acc = 0;", *[line.removeprefix("  ") for line in inner]]
    return _loops(box.loops, inner, simd=False)


def _print_topk(node: Node, box: Box, target: str, names: dict[Node, str]) -> list[str]:
    source = box.expr.value
    if source is None or box.expr.offset is None:
        raise InternalError(f"{node.name}: its source is not stored")
    call = f"topk_index<{node.inputs[0].shape[-1]}, {node.attrs['k']}>"
    line = f"{call}({names[source]} + {_affine(box.expr.offset)}, {target} + {_affine(box.offset)});"
    return _loops(tuple(var for var in box.loops if var.size > 1), [line], simd=False)


def _loops(loops: tuple[Var, ...], body: list[str], simd: bool, clause: str = "") -> list[str]:
    """`for` around `body`; the innermost may run in vector lanes."""
    if not loops and len(body) > 1:  # a block: what it declares, another stage may declare too
        return ["  {", *[line if line.startswith("#") else f"    {line}" for line in body], "  }"]
    lines: list[str] = []
    indent = "  "
    for depth, var in enumerate(loops):
        if simd and depth == len(loops) - 1:
            lines.append(f"#pragma omp simd{clause}")
        lines.append(f"{indent}for (int {var.name} = 0; {var.name} < {var.size}; ++{var.name}) {{")
        indent += "  "
    lines += [line if line.startswith("#") else indent + line for line in body]
    for _ in loops:
        indent = indent[2:]
        lines.append(indent + "}")
    return lines


def _affine(offset: Affine) -> str:
    parts = [var.name if factor == 1 else f"{factor} * {var.name}" for var, factor in offset.terms]
    if offset.constant or not parts:
        parts.append(str(offset.constant))
    return " + ".join(parts)


def _stored(value: str, dtype: str) -> str:
    return f"to_bf16({value})" if dtype == "bfloat16" else value


def _expression(expr: Expr, names: dict[Node, str]) -> tuple[list[str], str]:
    """Declarations of what is used more than once, and the value."""
    printer = _Printer(names, expr)
    value = printer.text(expr)
    return printer.shared, value


class _Printer:
    def __init__(self, names: dict[Node, str], root: Expr) -> None:
        self.names = names
        self.shared: list[str] = []
        self._uses: dict[int, int] = {}
        self._known: dict[int, str] = {}
        self._count(root)

    def _count(self, expr: Expr) -> None:
        self._uses[id(expr)] = self._uses.get(id(expr), 0) + 1
        if self._uses[id(expr)] == 1:
            for arg in expr.args:
                self._count(arg)

    def text(self, expr: Expr) -> str:
        """The expression, or the name of the variable that holds it."""
        if self._uses[id(expr)] == 1 or expr.op == "number" or (expr.op == "load" and not expr.args):
            return self._text(expr)
        if id(expr) not in self._known:
            value = self._text(expr)
            name = f"t{len(self.shared)}"
            self.shared.append(
                f"const {CTYPES[expr.dtype] if expr.dtype != 'bfloat16' else 'float'} {name} = {value};"
            )
            self._known[id(expr)] = name
        return self._known[id(expr)]

    def _text(self, expr: Expr) -> str:
        """Parentheses where there is an operator."""
        if expr.op == "number":
            return _number(expr.number, expr.dtype)
        if expr.op == "load":
            return self._load(expr)
        args = [self.text(arg) for arg in expr.args]
        if expr.op in INFIX:
            return f"({args[0]} {INFIX[expr.op]} {args[1]})"
        if expr.op in CALLS:
            return f"{CALLS[expr.op]}({', '.join(args)})"
        match expr.op:
            case "neg":
                return f"(-{args[0]})"
            case "not":
                return f"(!{args[0]})"
            case "rsqrt":
                return f"(1.0f / sqrtf({args[0]}))"
            case "reciprocal":
                return f"(1.0f / {args[0]})"
            case "where":
                return f"({args[0]} ? {args[1]} : {args[2]})"
            case "cast":
                return self._cast(expr, args[0])
        raise InternalError(f"no C++ for {expr.op}")

    def _load(self, expr: Expr) -> str:
        if expr.value is None or expr.offset is None:
            raise InternalError("a load of nothing")
        position = _affine(expr.offset)
        if expr.args:
            position += f" + {expr.stride} * {self.text(expr.args[0])}"
        load = f"{self.names[expr.value]}[{position}]"
        return f"to_float({load})" if expr.dtype == "bfloat16" else load

    def _cast(self, expr: Expr, value: str) -> str:
        if expr.dtype == "bfloat16" or expr.args[0].dtype == expr.dtype:
            return value  # rounded where it is stored
        if expr.dtype == "bool":
            return f"({value} != 0)"
        return f"static_cast<{CTYPES[expr.dtype]}>({value})"


def _number(number: float | int | bool, dtype: str) -> str:
    if dtype == "bool":
        return "1" if number else "0"
    if dtype == "int32":
        return str(int(number))
    number = float(number)
    if number != number:
        return "NAN"
    if number in (float("inf"), float("-inf")):
        return "INFINITY" if number > 0 else "(-INFINITY)"
    if abs(number) > 3.4028235e38:
        return "(-3.4028235e+38f)" if number < 0 else "3.4028235e+38f"
    text = f"{number:.9g}"
    text = text if any(character in text for character in ".e") else text + ".0"
    return f"{text}f" if number >= 0 else f"({text}f)"


def local_floats(kernel: RowKernel) -> int:
    """Elements of the arrays on the stack."""
    return sum(prod(node.shape) for node in kernel.locals)
