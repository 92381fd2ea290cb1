"""Move a row kernel into the linear that it follows, where each of its values needs one of the linear's.

An activation, a bias, a scale: the tile is still in registers when they are applied, and the linear's own
output never reaches memory. A norm needs the whole row, so it stays a kernel of its own.
"""

from pagedc.compiler.program import Buffer, Call, Operand, Program, RowFunction
from pagedc.compiler.rows.affine import Affine
from pagedc.compiler.rows.kernel import Box, Expr, RowKernel


def fuse_epilogues(program: Program) -> int:
    """Rewrite `program.calls`; returns how many row kernels went."""
    functions = {function.name: function for function in program.row_functions}
    readers: dict[Buffer, int] = {}
    for call in program.calls:
        for operand in call.operands:
            readers[operand.buffer] = readers.get(operand.buffer, 0) + 1
    calls: list[Call] = []
    fused = 0
    for call in program.calls:
        linear = calls[-1] if calls else None
        if linear is not None and _fits(linear, call, functions, readers, program.logits):
            calls[-1] = _fused(linear, call, functions)
            program.buffers.remove(linear.outputs[0])
            fused += 1
        else:
            calls.append(call)
    used = {call.constants.get(key) for call in calls for key in ("function", "epilogue")}
    program.row_functions = [function for function in functions.values() if function.name in used]
    program.calls = calls
    return fused


def _fits(
    linear: Call, rows: Call, functions: dict[str, RowFunction], readers: dict[Buffer, int], logits: Buffer
) -> bool:
    """Whether `rows` reads the output of `linear`, alone, and value by value."""
    if linear.kind != "linear" or rows.kind != "rows" or "epilogue" in linear.constants:
        return False
    out = linear.outputs[0]
    if linear.constants["count"] != 1 or readers.get(out) != 1 or out is logits:
        return False
    if not any(operand.buffer is out for operand in rows.operands):
        return False
    return is_pointwise(functions[rows.constants["function"]].kernel, linear.constants["n"])


def is_pointwise(kernel: RowKernel, width: int) -> bool:
    """Whether value i of each output needs value i of each input, `width` of them, or a single number."""
    return not kernel.locals and all(
        len(stage.boxes) == 1 and stage.node.size == width and _is_straight(stage.boxes[0], width)
        for stage in kernel.stages
    )


def _is_straight(box: Box, width: int) -> bool:
    if len(box.loops) != 1 or box.reduced or box.loops[0].size != width:
        return False
    index = Affine.of(box.loops[0])
    return box.offset == index and _reads_straight(box.expr, index, width)


def _reads_straight(expr: Expr, index: Affine, width: int) -> bool:
    if expr.op == "load":
        single = expr.value is not None and expr.value.size == 1
        return not expr.args and (single or expr.offset == index)
    return all(_reads_straight(arg, index, width) for arg in expr.args)


def _fused(linear: Call, rows: Call, functions: dict[str, RowFunction]) -> Call:
    """The linear with the row kernel's inputs behind its own; `a` among their kinds is the tile."""
    function = functions[rows.constants["function"]]
    name = function.name.replace("rows", "epilogue")
    if name not in functions:
        functions[name] = RowFunction(name, function.kernel, function.body, width=linear.constants["n"])
    functions[name].origins.append(function.origins[-1])
    kinds: list[str] = []
    operands: list[Operand] = []
    remaining = iter(rows.operands)
    for kind in rows.constants["inputs"]:
        operand = next(remaining) if kind == "b" else None
        if operand is not None and operand.buffer is linear.outputs[0]:
            kinds.append("a")
        else:
            kinds.append(kind)
            operands += [] if operand is None else [operand]
    return Call(
        "linear",
        f"{linear.origin}, {rows.origin}",
        {**linear.constants, "epilogue": name, "inputs": tuple(kinds)},
        [*linear.operands, *operands],
        [*linear.weights, *rows.weights],
        rows.outputs,
    )
