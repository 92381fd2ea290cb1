"""Buffers that live at the same time never share a byte."""

from hypothesis import given
from hypothesis import strategies as st

from pagedc.compiler.graph import Domain
from pagedc.compiler.memory_plan import ALIGNMENT, plan_memory
from pagedc.compiler.program import Buffer, Program

DOMAINS: tuple[Domain, ...] = ("token", "row")


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    found = []
    for index in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 20))
        dtype = draw(st.sampled_from(["float32", "bfloat16", "int32"]))
        found.append(
            Buffer(
                f"b{index}",
                draw(st.integers(1, 300)),
                dtype,
                draw(st.sampled_from(DOMAINS)),
                first=first,
                last=first + draw(st.integers(0, 8)),
            )
        )
    return found


def planned(found: list[Buffer]) -> Program:
    program = Program([], [], found, [], Buffer("logits", 1, "float32", "row"), 0)
    plan_memory(program)
    return program


@given(buffers())
def test_no_two_live_buffers_overlap(found: list[Buffer]) -> None:
    program = planned(found)
    for one in found:
        assert one.offset % ALIGNMENT == 0
        assert one.offset + one.row_bytes <= program.arena_bytes[one.domain]
        for other in found:
            if one is other or one.domain != other.domain or one.last < other.first or other.last < one.first:
                continue
            assert one.offset + one.row_bytes <= other.offset or other.offset + other.row_bytes <= one.offset


def test_a_place_is_used_again() -> None:
    chain = [Buffer(f"b{i}", 16, "float32", "token", first=i, last=i + 1) for i in range(10)]
    assert planned(chain).arena_bytes["token"] == 2 * 64
    assert [buffer.offset for buffer in chain] == [0, 64] * 5


def test_a_small_buffer_fills_a_gap() -> None:
    long, gone, high, small = (
        Buffer("long", 16, "float32", "token", first=0, last=9),
        Buffer("gone", 16, "float32", "token", first=0, last=1),
        Buffer("high", 16, "float32", "token", first=1, last=9),
        Buffer("small", 4, "float32", "token", first=2, last=9),
    )
    planned([long, gone, high, small])
    assert small.offset == gone.offset == 64
