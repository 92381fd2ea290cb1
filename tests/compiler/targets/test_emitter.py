"""The walk that all targets' printers share, with a target that spells things as words."""

import pytest

from pagedc.compiler.errors import InternalError
from pagedc.compiler.program import Buffer, Call, Program
from pagedc.compiler.targets.emitter import Emitter, LayerLoop, Sections

TOKEN, ROW = Buffer("x", 4, "float32", "token"), Buffer("logits", 4, "float32", "row")


class Words(Emitter):
    comment = "--"
    reserved = ("logits",)

    def print_call(self, call: Call, text: dict[str, str]) -> list[str]:
        return [f"{call.kind} {self.output(call, 0, text)}"]

    def print_loop(self, loop: LayerLoop) -> list[str]:
        return [" or ".join(function.name for function in loop.functions)]

    def print_sample(self, logits: str) -> str:
        return f"sample {logits}"

    def declaration(self, name: str, buffer: Buffer, place: str) -> str:
        return f"let {name} = {place}"


def sections(*calls: Call) -> Sections:
    return Words(Program(list(calls), [], [TOKEN, ROW], [], ROW, 0)).sections()


def attention(layer: int, num_heads: int) -> Call:
    return Call("attention", f"layers.{layer}", {"num_heads": num_heads}, outputs=[TOKEN], layer=layer)


def linear(out: Buffer) -> Call:
    return Call("linear", "head", {}, outputs=[out])


def test_a_buffer_is_declared_once_in_a_function_and_reserved_words_are_kept_free() -> None:
    found = sections(linear(TOKEN), linear(TOKEN), linear(ROW))
    assert [line for line in found.tokens if "--" not in line] == ["let x = 0", "linear x", "linear x"]
    assert [line for line in found.rows if "--" not in line] == [
        "let logits_out = 0",
        "linear logits_out",
        "sample logits_out",
    ]


def test_functions_of_two_loops_have_different_names() -> None:
    """The first loop has two functions; the second, of periods of three, has one."""
    first = [call for i, heads in enumerate([1, 2, 1, 2]) for call in (linear(TOKEN), attention(i, heads))]
    period = [linear(TOKEN), linear(TOKEN)]
    second = [call for i in (4, 5) for call in (*period, attention(i, 1))]
    found = sections(*first, *second, linear(ROW))
    names = [function.name for loop in found.loops for function in loop.functions]
    assert names == ["layer_kind_0", "layer_kind_1", "layer_1"]
    assert [loop.columns[-1].values for loop in found.loops] == [[0, 1, 0, 1], [4, 5]]


def test_calls_of_all_tokens_come_first() -> None:
    with pytest.raises(InternalError, match="follows"):
        sections(linear(ROW), linear(TOKEN))
