"""Row kernels inside linears: which move, which stay, and what a tile computes."""

from tests.compiler.small_graphs import Builder
from tests.compiler.test_lower import check_order, kinds, lowered

from pagedc.compiler.graph import Node
from pagedc.compiler.program import Program
from pagedc.compiler.targets.cpu.emit import emit


def head(build: Builder, x: Node) -> Program:
    return lowered(build.done(build.linear(x, 5)))


def test_an_activation_and_a_bias_move_into_the_linear() -> None:
    build = Builder()
    hidden = build.add(
        "tanh", (build.add("add", (build.linear(build.embedded(8), 20), build.parameter(20)), (20,)),), (20,)
    )
    program = head(build, hidden)
    assert kinds(program) == ["embedding", "linear", "select_rows", "linear"]
    fused = program.calls[1]
    assert fused.constants["inputs"] == ("a", "w")
    assert [buffer.width for buffer in fused.outputs] == [20]
    assert len(fused.weights) == 2
    check_order(program)
    text = emit(program, "test", "0", "native", "float")
    # A row of 20 is a whole tile and a part of one: the loop runs over what the tile holds.
    assert "epilogue_0(int count" in text
    assert "i0 < count" in text
    assert "< 20" not in text


def test_a_residual_is_read_beside_the_tile() -> None:
    build = Builder()
    x = build.embedded(8)
    program = head(build, build.add("add", (x, build.linear(x, 8)), (8,)))
    assert kinds(program) == ["embedding", "linear", "select_rows", "linear"]
    assert program.calls[1].constants["inputs"] == ("b", "a")
    check_order(program)


def test_what_needs_the_whole_row_stays() -> None:
    build = Builder()
    x = build.linear(build.embedded(8), 8)
    total = build.add("expand", (build.add("sum", (x,), (1,), axes=(0,)),), (8,))
    assert kinds(head(build, build.add("mul", (x, total), (8,)))) == [
        "embedding",
        "linear",
        "rows",
        "select_rows",
        "linear",
    ]


def gated(width: int) -> Program:
    build = Builder()
    x = build.linear(build.embedded(8), 2 * width)
    gate = build.add("slice", (x,), (width,), axis=0, range=(0, width, 1))
    up = build.add("slice", (x,), (width,), axis=0, range=(width, 2 * width, 1))
    return head(build, build.add("mul", (build.add("sigmoid", (gate,), (width,)), up), (width,)))


def test_a_gate_and_its_other_half_move_into_the_linear_in_stripes() -> None:
    program = gated(32)
    assert kinds(program) == ["embedding", "linear", "select_rows", "linear"]
    fused = program.calls[1]
    assert (fused.constants["n"], fused.constants["stripes"]) == (64, 2)
    assert [weight.stripes for weight in fused.weights] == [2]
    assert [buffer.width for buffer in fused.outputs] == [32]
    check_order(program)
    text = emit(program, "test", "0", "native", "float")
    assert "linear<F32, 64, 8, 2>" in text
    assert "in0[i0 + 16]" in text  # the other half of the tile


def test_halves_that_are_no_whole_tiles_stay() -> None:
    assert "rows" in kinds(gated(8))


def test_an_output_that_others_read_is_stored() -> None:
    build = Builder()
    x = build.linear(build.embedded(8), 8)
    both = build.add(
        "cat", (build.linear(build.add("tanh", (x,), (8,)), 4), build.linear(x, 4)), (8,), axis=0
    )
    assert kinds(head(build, both))[:3] == ["embedding", "linear", "rows"]
