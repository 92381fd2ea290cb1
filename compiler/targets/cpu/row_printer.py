"""Print a row kernel as a C++ function over one token."""

from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import Node
from pagedc.compiler.rows.affine import Affine, Var
from pagedc.compiler.rows.kernel import Box, Expr, RowKernel, Stage
from pagedc.compiler.targets.cpu.cpp import TYPES, float_literal
from pagedc.compiler.targets.expressions import ARITHMETIC, ExpressionPrinter

FORMS = ARITHMETIC | {
    "and": "({} && {})",
    "or": "({} || {})",
    "not": "(!{})",
    "exp": "math::exp({})",
    "log": "math::log({})",
    "log1p": "math::log1p({})",
    "tanh": "math::tanh({})",
    "erf": "math::erf({})",
    "sigmoid": "math::sigmoid({})",
    "sin": "math::sin({})",
    "cos": "math::cos({})",
    "pow": "math::pow({}, {})",
    "sqrt": "sqrtf({})",
    "rsqrt": "(1.0f / sqrtf({}))",
    "reciprocal": "(1.0f / {})",
    "abs": "fabsf({})",
    "floor": "floorf({})",
    "maximum": "maximum({}, {})",
    "minimum": "minimum({}, {})",
    "mod": "modulo({}, {})",
    "floordiv": "floor_divide({}, {})",
    "where": "({} ? {} : {})",
}
REDUCERS = {"sum": ("0", "+"), "max": ("-INFINITY", "max"), "min": ("INFINITY", "min")}


def parameters(kernel: RowKernel) -> dict[Node, str]:
    """The names of what is passed in: in0, in1, …, out0, …"""
    names = {node: f"in{position}" for position, node in enumerate(kernel.inputs)}
    return names | {node: f"out{position}" for position, node in enumerate(kernel.outputs)}


def print_signature(kernel: RowKernel, name: str) -> str:
    """`static inline void name(const float* in0, …, float* out0)`."""
    names = parameters(kernel)
    words = [f"const {TYPES[node.dtype]}* PAGEDC_RESTRICT {names[node]}" for node in kernel.inputs]
    words += [f"{TYPES[node.dtype]}* {names[node]}" for node in kernel.outputs]
    return f"static inline void {name}({', '.join(words)})"


def print_body(kernel: RowKernel) -> str:
    """The statements of the function. The text depends on structure alone, so equal kernels print equally."""
    names = parameters(kernel)
    lines: list[str] = []
    for position, node in enumerate(kernel.locals):
        names[node] = f"v{position}"
        lines.append(f"  alignas(64) {TYPES[node.dtype]} v{position}[{max(node.size, 1)}];")
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
    ctype, operator = TYPES[node.dtype], REDUCERS[node.op][1]
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
    inner = [f"{TYPES[node.dtype]} acc = 0;", *[line.removeprefix("  ") for line in inner]]
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
    printer = _Expression(names, expr)
    value = printer.text(expr)
    return printer.declarations, value


class _Expression(ExpressionPrinter):
    forms = FORMS

    def __init__(self, names: dict[Node, str], root: Expr) -> None:
        super().__init__(root)
        self.names = names
        self.declarations: list[str] = []

    def is_cheap(self, expr: Expr) -> bool:
        return expr.op == "number" or (expr.op == "load" and not expr.args)

    def variable(self, expr: Expr, value: str) -> str:
        name, ctype = f"t{len(self.declarations)}", TYPES[expr.dtype]
        self.declarations.append(f"const {'float' if ctype == 'bf16' else ctype} {name} = {value};")
        return name

    def number(self, expr: Expr) -> str:
        if expr.dtype == "bool":
            return "1" if expr.number else "0"
        return str(int(expr.number)) if expr.dtype == "int32" else float_literal(expr.number)

    def load(self, expr: Expr, node: Node, offset: Affine) -> str:
        position = _affine(offset)
        if expr.args:
            position += f" + {expr.stride} * {self.text(expr.args[0])}"
        load = f"{self.names[node]}[{position}]"
        return f"to_float({load})" if expr.dtype == "bfloat16" else load

    def cast(self, expr: Expr, value: str) -> str:
        return f"({value} != 0)" if expr.dtype == "bool" else f"static_cast<{TYPES[expr.dtype]}>({value})"
