"""Repeated layers become loops."""

from itertools import chain

from tests.compiler.families import make_config

from pagedc.compiler.lower import lower
from pagedc.compiler.outline import Loop, Section, outline
from pagedc.compiler.passes import run_passes
from pagedc.compiler.program import Call, Program
from pagedc.compiler.targets.cpu.row_printer import print_body
from pagedc.compiler.trace import trace


def program_of(name: str) -> Program:
    graph = trace(make_config(name))
    run_passes(graph, lambda node: "f32")
    return lower(graph, print_body)


def flat(sections: list[Section]) -> list[Call]:
    calls: list[Call] = []
    for section in sections:
        calls += [section] if isinstance(section, Call) else chain.from_iterable(section.iterations)
    return calls


def test_layers_of_a_tied_llama_are_one_function() -> None:
    """All but the last layer: its last kernel keeps no residual, the others are the same."""
    program = program_of("llama")
    sections = outline(program.calls)
    (loop,) = [section for section in sections if isinstance(section, Loop)]
    assert loop.kinds == [0, 0]
    layers = [[call.layer for call in calls if call.kind == "attention"] for calls in loop.iterations]
    assert layers == [[0], [1]]
    (layer,) = loop.functions
    after = [section for section in sections[sections.index(loop) + 1 :] if isinstance(section, Call)]
    assert [call.key for call in after[: len(layer) - 1]] == [call.key for call in layer[:-1]]
    assert after[len(layer) - 1].kind == layer[-1].kind == "rows"
    assert flat(sections) == program.calls


def test_layers_of_two_kinds_are_two_functions() -> None:
    program = program_of("gemma2")
    sections = outline(program.calls)
    (loop,) = [section for section in sections if isinstance(section, Loop)]
    assert len(loop.functions) == 2
    assert loop.kinds == [0, 1, 0]
    assert flat(sections) == program.calls


def attention(layer: int) -> Call:
    return Call("attention", f"layers.{layer}", {"num_heads": 2}, layer=layer)


def linear(n: int) -> Call:
    return Call("linear", "", {"n": n})


def test_iterations_of_one_function_have_equal_constants() -> None:
    calls = [call for i, n in enumerate([8, 8, 16]) for call in (linear(n), attention(i))]
    (loop,) = outline(calls)
    assert isinstance(loop, Loop)
    assert loop.kinds == [0, 0, 1]
    assert [call.constants for call in loop.functions[1]] == [{"n": 16}, {"num_heads": 2}]


def test_what_does_not_repeat_stays() -> None:
    calls = [linear(8), attention(0), linear(16)]
    assert outline(calls) == calls
    assert outline([]) == []
