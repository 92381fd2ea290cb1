"""From graphs to calls: which values are stored, what one kernel computes, and in which order."""

import numpy as np
import pytest
from tests.compiler.families import make_config
from tests.compiler.small_graphs import Builder

from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import Graph
from pagedc.compiler.lower import MAX_LOCALS, lower
from pagedc.compiler.passes import run_passes
from pagedc.compiler.program import Buffer, Program
from pagedc.compiler.targets.cpu.row_printer import print_body
from pagedc.compiler.trace import trace


def lowered(graph: Graph) -> Program:
    run_passes(graph, lambda node: "f32")
    return lower(graph, print_body)


def kinds(program: Program) -> list[str]:
    return [call.kind for call in program.calls]


def check_order(program: Program) -> None:
    """Each operand was written before and lives until it is read; weights are numbered and named."""
    written: set[Buffer] = set()
    for index, call in enumerate(program.calls):
        for operand in call.operands:
            buffer = operand.buffer
            assert buffer in written or buffer.name in ("token_ids", "positions")
            assert operand.offset < buffer.width
            if buffer in written:
                assert buffer.first <= index <= buffer.last
        written.update(call.outputs)
    assert program.logits in written
    for weight in program.weights:
        assert program.weights[weight.index] is weight
    assert len({weight.name for weight in program.weights}) == len(program.weights)


def test_row_ops_between_two_anchors_are_one_call() -> None:
    build = Builder()
    x = build.embedded(8)
    square = build.add("mul", (x, x), (8,))
    total = build.add("expand", (build.add("sum", (square,), (1,), axes=(0,)),), (8,))
    norm = build.add("mul", (x, build.add("rsqrt", (total,), (8,))), (8,))
    program = lowered(build.done(build.linear(norm, 5)))
    assert kinds(program) == ["embedding", "rows", "select_rows", "linear"]
    check_order(program)


def test_an_anchor_reads_its_part_of_a_merged_linear() -> None:
    """Slices of a merged linear are offsets, not copies."""
    build = Builder()
    x = build.embedded(8)
    first, second = build.linear(x, 16), build.linear(x, 24)
    both = build.add("cat", (build.linear(first, 4), build.linear(second, 4)), (8,), axis=0)
    program = lowered(build.done(build.linear(build.add("tanh", (both,), (8,)), 5)))
    linears = [call for call in program.calls if call.kind == "linear"]
    assert [call.constants["n"] for call in linears] == [40, 4, 4, 5]
    assert [call.operands[0].offset for call in linears] == [0, 0, 16, 0]
    check_order(program)


def test_equal_kernels_are_one_function() -> None:
    build = Builder()
    x = build.embedded(8)
    for _ in range(3):
        x = build.add("tanh", (build.linear(x, 8),), (8,))
    program = lowered(build.done(build.linear(x, 5)))
    assert kinds(program).count("linear") == 4  # the activations are their epilogues
    assert len(program.row_functions) == 1


def test_what_positions_decide_is_computed_once() -> None:
    """Rotary tables come before the first layer, not in each of them."""
    program = lowered(trace(make_config("llama")))
    assert kinds(program)[0] == "rows"
    assert [operand.buffer.name for operand in program.calls[0].operands] == ["positions"]
    assert sum("math::cos" in function.body for function in program.row_functions) == 1


def test_a_row_kernel_has_a_bounded_stack() -> None:
    build = Builder()
    x = build.embedded(8)
    wide = build.add("expand", (build.add("reshape", (x,), (8, 1)),), (8, MAX_LOCALS))
    total = build.add("cumsum", (wide,), (8, MAX_LOCALS), axes=(1,))
    last = build.add("slice", (total,), (8, 1), axis=1, range=(MAX_LOCALS - 1, MAX_LOCALS, 1))
    graph = build.done(build.linear(build.add("reshape", (last,), (8,)), 5))
    with pytest.raises(UnsupportedError, match="values of one token"):
        lowered(graph)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_oss"])
def test_programs_of_models_are_in_order(name: str) -> None:
    program = lowered(trace(make_config(name)))
    check_order(program)
    live = [
        sum(b.row_bytes for b in program.buffers if b.first <= i <= b.last) for i in range(len(program.calls))
    ]
    assert max(live) <= sum(program.arena_bytes.values()) <= 3 * np.max(live)
