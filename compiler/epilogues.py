"""Move a row kernel into the linear that it follows, where each of its values needs one of the linear's.

An activation, a bias, a scale: the tile is still in registers when they are applied, and the linear's own
output never reaches memory. A gate needs two, half a row apart: then the weight's rows are packed in stripes,
16 of each half in turn, and a tile holds both. A norm needs the whole row, so it stays a kernel of its own.
"""

from collections.abc import Callable
from dataclasses import replace

from pagedc.compiler.graph import Node
from pagedc.compiler.program import Buffer, Call, Operand, Program, RowFunction, Weight
from pagedc.compiler.rows.affine import Affine
from pagedc.compiler.rows.kernel import Box, Expr, RowKernel, Stage

MAX_STRIPES = 2  # a gate and what it lets through
STRIPE = 16  # rows of a panel of packed weights
MAX_ARGUMENTS = 8  # the tile, other inputs and outputs: a kernel for a GPU has places for so many


def fuse_epilogues(program: Program, print_body: Callable[[RowKernel], str]) -> int:
    """Rewrite `program.calls`; returns how many row kernels went."""
    functions = {function.name: function for function in program.row_functions}
    readers: dict[Buffer | Weight, int] = {}
    for call in program.calls:
        values: list[Buffer | Weight] = [*(operand.buffer for operand in call.operands), *call.weights]
        for value in values:
            readers[value] = readers.get(value, 0) + 1
    calls: list[Call] = []
    fused = 0
    for call in program.calls:
        linear = calls[-1] if calls else None
        if linear is not None and _fits(linear, call, functions, readers, program.logits):
            calls[-1] = _fused(linear, call, functions, print_body)
            program.buffers.remove(linear.outputs[0])
            fused += 1
        else:
            calls.append(call)
    used = {call.constants.get(key) for call in calls for key in ("function", "epilogue")}
    program.row_functions = [function for function in functions.values() if function.name in used]
    program.calls = calls
    return fused


def _fits(
    linear: Call,
    rows: Call,
    functions: dict[str, RowFunction],
    readers: dict[Buffer | Weight, int],
    logits: Buffer,
) -> bool:
    """Whether `rows` reads the output of `linear`, alone, and value by value."""
    if linear.kind != "linear" or rows.kind != "rows" or "epilogue" in linear.constants:
        return False
    out, n, width = linear.outputs[0], linear.constants["n"], rows.outputs[0].width
    if linear.constants["count"] != 1 or readers.get(out) != 1 or out is logits or n % width:
        return False
    if not any(operand.buffer is out for operand in rows.operands):
        return False
    stripes = n // width
    if len(rows.constants["inputs"]) + len(rows.outputs) > MAX_ARGUMENTS:
        return False
    if stripes > 1 and (stripes > MAX_STRIPES or width % STRIPE or readers[linear.weights[0]] != 1):
        return False
    return is_pointwise(functions[rows.constants["function"]].kernel, width, stripes)


def is_pointwise(kernel: RowKernel, width: int, stripes: int = 1) -> bool:
    """Whether value i of each output needs value i of each input, `width` of them, or a single number.

    Of an input of `stripes` times the width, it may need values i, i + width, …
    """
    return not kernel.locals and all(
        len(stage.boxes) == 1 and stage.node.size == width and _is_straight(stage.boxes[0], width, stripes)
        for stage in kernel.stages
    )


def _is_straight(box: Box, width: int, stripes: int) -> bool:
    if len(box.loops) != 1 or box.reduced or box.loops[0].size != width:
        return False
    index = Affine.of(box.loops[0])
    return box.offset == index and _reads_straight(box.expr, index, width, stripes)


def _reads_straight(expr: Expr, index: Affine, width: int, stripes: int) -> bool:
    if expr.op != "load":
        return all(_reads_straight(arg, index, width, stripes) for arg in expr.args)
    if expr.args or expr.value is None or expr.offset is None:
        return False
    if expr.value.size == 1 or expr.offset == index:
        return True
    distance = expr.offset.constant
    return (
        expr.value.size == width * stripes and distance % width == 0 and expr.offset == index.shift(distance)
    )


def _fused(
    linear: Call, rows: Call, functions: dict[str, RowFunction], print_body: Callable[[RowKernel], str]
) -> Call:
    """The linear with the row kernel's inputs behind its own; `a` among their kinds is the tile."""
    function = functions[rows.constants["function"]]
    name = function.name.replace("rows", "epilogue")
    width = rows.outputs[0].width
    stripes = linear.constants["n"] // width
    kinds: list[str] = []
    operands: list[Operand] = []
    tile: Node | None = None
    for value, (kind, index) in zip(function.kernel.inputs, rows.inputs, strict=True):
        if kind == "b" and rows.operands[index].buffer is linear.outputs[0]:
            kinds.append("a")
            tile = value
        else:
            kinds.append(kind)
            operands += rows.operands[index : index + 1] if kind == "b" else []
    if name not in functions:
        kernel, body = function.kernel, function.body
        if stripes > 1:
            kernel = _of_a_tile(kernel, tile, width)
            body = print_body(kernel)
        functions[name] = RowFunction(name, kernel, body, width=width)
    functions[name].origins.append(function.origins[-1])
    constants = {**linear.constants, "epilogue": name, "inputs": tuple(kinds)}
    if stripes > 1:
        constants["stripes"] = linear.weights[0].stripes = stripes
    return Call(
        "linear",
        f"{linear.origin}, {rows.origin}",
        constants,
        [*linear.operands, *operands],
        [*linear.weights, *rows.weights],
        rows.outputs,
    )


def _of_a_tile(kernel: RowKernel, tile: Node | None, width: int) -> RowKernel:
    """The kernel with the halves of `tile` that stood `width` apart a stripe apart."""

    def moved(expr: Expr) -> Expr:
        if expr.value is tile and expr.offset is not None:
            distance = expr.offset.constant
            return replace(expr, offset=expr.offset.shift(distance // width * STRIPE - distance))
        return replace(expr, args=tuple(moved(arg) for arg in expr.args))

    stages = [
        Stage(stage.node, [replace(box, expr=moved(box.expr)) for box in stage.boxes])
        for stage in kernel.stages
    ]
    return RowKernel(stages, kernel.inputs, kernel.outputs)
