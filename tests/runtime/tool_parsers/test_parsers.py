"""Each format: what its models write, what is broken, and that it makes no difference how it is cut."""
# ruff: noqa: E501  what models write is not ours to wrap

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.runtime.schemas import JSON_VALUES

from pagedc.runtime.tool_parsers.answer import AnswerParser
from pagedc.runtime.tool_parsers.events import (
    Call,
    CallArguments,
    CallBroken,
    CallEnd,
    CallStart,
    Event,
    Reasoning,
    Text,
)
from pagedc.runtime.tool_parsers.formats import REASONING_FORMATS, TOOL_FORMATS, make_reasoning_parser
from pagedc.runtime.tool_parsers.markers import MarkerSplitter

PARIS, ROME = Call("weather", '{"city": "Paris"}'), Call("weather", '{"city": "Rome", "days": 2}')
DEEP = "[" * 100_000


Found = Call | Reasoning | Text


def parse(form: str, pieces: list[str], *, reasoning: str = "", is_open: bool = False) -> list[Found]:
    """What came of a text: texts that follow one another joined, calls whole."""
    thinking = make_reasoning_parser(reasoning, is_open=is_open) if reasoning else None
    parser = AnswerParser(thinking, TOOL_FORMATS[form].make_parser() if form else None)
    return gathered([event for piece in pieces for event in parser.feed(piece)] + parser.finish())


def gathered(events: list[Event]) -> list[Found]:
    """Events as a whole answer has them."""
    found: list[Found] = []
    name, arguments = "", [""]
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, CallStart):
            assert not name
            name, arguments = event.name, []
        elif isinstance(event, CallArguments):
            assert name
            arguments.append(event.text)
        elif isinstance(event, CallEnd):
            found.append(Call(name, "".join(arguments)))
            name = ""
        else:
            if isinstance(event, CallBroken):
                assert name
                name, event = "", Text(event.text)
            assert not name
            if isinstance(event, Text) and isinstance(last, Text):
                found[-1] = Text(last.text + event.text)
            elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
                found[-1] = Reasoning(last.text + event.text)
            else:
                found.append(event)
    assert not name
    return found


FENCED = '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
WRITTEN: list[tuple[str, str, list[Found]]] = [
    ("hermes", 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n',
     [Text("Let me see."), PARIS]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>\n<tool_call>\n'
     '{"name": "weather", "arguments": {"city": "Rome", "days": 2}}</tool_call> So.', [PARIS, ROME, Text("So.")]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}', [PARIS]),
    ("hermes", "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n"
     "</parameter>\n</function>\n</tool_call>", [ROME]),
    ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}', [PARIS]),
    ("llama3", '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}; '
     '{"name": "weather", "parameters": {"city": "Rome", "days": 2}}', [PARIS, ROME]),
    ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}, '
     '{"name": "weather", "arguments": {"city": "Rome", "days": 2}}]', [PARIS, ROME]),
    ("mistral", 'Well[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{"city": "Paris"}[TOOL_CALLS]weather'
     '{"city": "Rome", "days": 2}', [Text("Well"), PARIS, ROME]),
    ("deepseek", FENCED, [PARIS]),
    ("deepseek", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
     '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Rome", "days": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
     [PARIS, ROME]),
    ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
     'to=functions.weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>', [Reasoning("Hm."), PARIS]),
    ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.weather<|channel|>"
     'commentary json<|message|>{"city": "Paris"}', [Reasoning("Hm."), PARIS]),
    ("harmony", "<|channel|>final<|message|>It rains.<|return|>", [Text("It rains.")]),
    ("gemma", "<start_function_call>call:weather{city:<escape>Paris<escape>}<end_function_call>", [PARIS]),
    ("gemma", '<|tool_call>call:weather{city:<|"|>Rome<|"|>,days:2}<tool_call|>', [ROME]),
    ("gemma", '<start_function_call>call:weather{"city": "Paris"}<end_function_call>', [PARIS]),
    ("granite", '<|tool_call|>[{"name": "weather", "arguments": {"city": "Paris"}}]', [PARIS]),
    ("granite", '<function_call> {"name": "weather", "arguments": {"city": "Paris"}}', [PARIS]),
    ("phi", '<|tool_call|>[{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}]'
     "<|/tool_call|>", [PARIS]),
    ("phi", 'functools[{"name": "weather", "arguments": {"city": "Paris"}}]', [PARIS]),
    ("json", '```json\n[{"name": "weather", "arguments": {"city": "Paris"}}]\n```', [PARIS]),
    ("json", '{"function": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}', [PARIS]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "expected"), WRITTEN)
def test_what_models_write(form: str, text: str, expected: list[Found]) -> None:
    assert parse(form, [text]) == expected
    assert parse(form, list(text)) == expected, "character by character"


BROKEN = [
    "", "{", "}", "[", "null", "[]", "{}", '{"name": 1, "arguments": {}}', '{"name": "f", "arguments": []}',
    '{"name": "f", "arguments": {"a": NaN}}', '{"name": "", "arguments": {}}', '{"name": "f", "arguments": "x"}',
    '{"name": "f", "arguments": {"a": 1e999}}', '__import__("os").system("true")', 'f(a="b")', '"' + "\\" * 99,
    DEEP, '{"a":' * 50_000, "call:f{a:", "call:f{a:[1,}", "f[ARGS]", "name<｜tool▁sep｜>x",
    "<function=f><parameter=a>", "\ud800", "\x00", "9" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("form", TOOL_FORMATS)
@pytest.mark.parametrize("content", BROKEN, ids=lambda content: content[:20])
def test_what_is_no_call_stays_text(form: str, content: str) -> None:
    """Nothing is lost but the space beside it; only harmony's headers are no content."""
    tool_format = TOOL_FORMATS[form]
    text = tool_format.opening + tool_format.begin.partition("NAME")[0].partition("{")[0] + content
    events = parse(form, [text])
    assert not any(isinstance(event, Call) for event in events)
    shown = "".join(event.text for event in events if isinstance(event, Text))
    if form != "harmony":
        assert shown.strip() == without_dropped(form, text).strip()
    assert parse(form, list(text[:5000])) == parse(form, [text[:5000]])


def without_dropped(form: str, text: str) -> str:
    if form == "deepseek":
        return text.replace("<｜tool▁calls▁begin｜>", "")
    return text


@given(
    form=st.sampled_from(sorted(TOOL_FORMATS)),
    arguments=st.lists(st.dictionaries(st.text(min_size=1, max_size=5), JSON_VALUES, max_size=3), max_size=2),
    before=st.sampled_from(["", "Well, ", "I see:\n"]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_calls_come_back_however_the_text_is_cut(
    form: str, arguments: list[dict[str, Any]], before: str, data: st.DataObject
) -> None:
    tool_format = TOOL_FORMATS[form]
    arguments = arguments[:1] if tool_format.is_single else arguments
    calls = [
        tool_format.begin.replace("NAME", f"f{i}") + json.dumps(each, ensure_ascii=False) + tool_format.end
        for i, each in enumerate(arguments)
    ]
    text = tool_format.opening + tool_format.separator.join(calls) + tool_format.closing if calls else ""
    if form not in ("json", "llama3"):  # there an answer is either calls or text
        text = before + text
    events = parse(form, [text])
    found = [event for event in events if isinstance(event, Call)]
    assert [(call.name, json.loads(call.arguments)) for call in found] == [
        (f"f{i}", each) for i, each in enumerate(arguments)
    ]
    assert parse(form, cut(text, data)) == events


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]


PIECES = st.sampled_from(
    [
        " ", "\n", "a", "{", "}", '"', "\\", "[", "]", ":", ",", "<", ">", "```json", "```", "call:f{", "name",
        "<function=f>", "<parameter=a>", "</parameter>", "</function>", "true", "12", "-",
        '{"name": "f", "arguments": {}}', "<think>", "</think>", "<tool", "_call>", "to=functions.f", "functools",
        *(marker for form in TOOL_FORMATS.values() for marker in form.markers),
    ]
)  # fmt: skip


@given(
    form=st.sampled_from(["", *TOOL_FORMATS]),
    reasoning=st.sampled_from(["", "think"]),
    is_open=st.booleans(),
    pieces=st.lists(PIECES, max_size=12),
    data=st.data(),
)
@example("hermes", "think", False, ["<think>", "a", "</think>", "\n", "<tool_call>", "{"], None)
@settings(deadline=None, max_examples=150)
def test_any_text_is_read_the_same_however_it_is_cut(
    form: str, reasoning: str, is_open: bool, pieces: list[str], data: st.DataObject | None
) -> None:
    text = "".join(pieces)
    whole = parse(form, [text], reasoning=reasoning, is_open=is_open)
    pieces = list(text) if data is None else cut(text, data)
    assert parse(form, pieces, reasoning=reasoning, is_open=is_open) == whole


@pytest.mark.parametrize("name", REASONING_FORMATS)
def test_reasoning_is_told_from_the_answer(name: str) -> None:
    begin, end = REASONING_FORMATS[name]
    for text, is_open in ((f"{begin}\nHm, so.\n{end}\n\nYes.", False), (f"Hm, so. {end}Yes.", True)):
        assert parse("", list(text), reasoning=name, is_open=is_open) == [Reasoning("Hm, so."), Text("Yes.")]
    assert parse("", ["No reasoning."], reasoning=name) == [Text("No reasoning.")]
    assert parse("", [f"{begin} cut short"], reasoning=name) == [Reasoning("cut short")]
    assert parse("", [f"{begin}{end}x {begin}"], reasoning=name) == [Text(f"x {begin}")]


def test_markers_that_contain_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="part of another"):
        MarkerSplitter(["<a>", "x<a>"])


LONG = '{"text": "' + "word " * 400 + '"}'


@pytest.mark.parametrize("form", TOOL_FORMATS)
def test_arguments_go_out_as_they_are_written(form: str) -> None:
    tool_format = TOOL_FORMATS[form]
    text = tool_format.opening + tool_format.begin.replace("NAME", "f")
    parser = AnswerParser(None, tool_format.make_parser())
    events = [event for character in text for event in parser.feed(character)]
    assert events == []
    assert parser.feed(LONG[:9]) == [CallStart("f"), CallArguments(LONG[:9])]
    for i in range(9, len(LONG) - 1):
        assert parser.feed(LONG[i]) == [CallArguments(LONG[i])]
    assert parser.feed("}") == [CallArguments("}"), CallEnd()]
    assert parser.feed(tool_format.end + tool_format.closing) + parser.finish() == []


def gemma_text(value: Any) -> str:
    """As Gemma writes a value."""
    if isinstance(value, dict):
        return (
            "{" + ",".join(f"<escape>{key}<escape>:{gemma_text(each)}" for key, each in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(gemma_text, value)) + " ]"
    return f"<escape>{value}<escape>" if isinstance(value, str) else json.dumps(value)


def tagged_text(values: dict[str, Any]) -> str:
    """As Qwen's coders write arguments."""
    written = {key: each if isinstance(each, str) else json.dumps(each) for key, each in values.items()}
    return "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in written.items())


NAMED = st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), JSON_VALUES, max_size=3)
# Texts that are JSON are not told from JSON.
TEXTS = st.sampled_from(
    ["", "a\nb", "truth", "true story", "12 monkeys", "-", "{x", '"quoted"', "\n", "</param", "\u00e9"]
)
WRITERS = {
    "gemma": lambda values: f"<start_function_call>call:f {gemma_text(values)}<end_function_call>",
    "hermes": lambda values: f"<tool_call>\n<function=f>\n{tagged_text(values)}</function>\n</tool_call>",
}


@given(
    form=st.sampled_from(sorted(WRITERS)),
    values=NAMED,
    texts=st.dictionaries(st.sampled_from("xyz"), TEXTS),
    data=st.data(),
)
@settings(deadline=None, max_examples=100)
def test_arguments_that_are_no_json_become_it(
    form: str, values: dict[str, Any], texts: dict[str, str], data: st.DataObject
) -> None:
    values = {key: each for key, each in values.items() if not isinstance(each, str)} | texts
    text = WRITERS[form](values)
    expected = [Call("f", json.dumps(values, ensure_ascii=False))]
    assert parse(form, cut(text, data)) == expected
    assert parse(form, list(text)) == expected


def test_a_text_in_tags_goes_out_once_it_can_be_nothing_else() -> None:
    parser = AnswerParser(None, TOOL_FORMATS["hermes"].make_parser())
    text = "<tool_call>\n<function=f>\n<parameter=count>\n12\n</parameter>\n<parameter=code>\nif"
    events = [event for character in text for event in parser.feed(character)]
    assert events[0] == CallStart("f")
    shown = "".join(event.text for event in events if isinstance(event, CallArguments))
    assert shown == '{"count": 12, "code": "if'
    assert parser.feed(' "x') == [CallArguments(' \\"x')]
    assert parser.feed("\n") == []  # perhaps the one before the end
    assert parser.feed("\n</parameter>") == [CallArguments('\\n"')]
    assert parser.feed("</tool_call>") == [CallArguments("}"), CallEnd()]  # without </function>


@pytest.mark.parametrize("arguments", ['{"a": [1', '{"a": tru}', '{"a": 1e999}', '{"a" 1}', '{"a'])
def test_a_call_that_breaks_is_all_text(arguments: str) -> None:
    text = 'So. <tool_call>\n{"name": "f", "arguments": ' + arguments + "}\n</tool_call> Well."
    assert parse("hermes", list(text)) == parse("hermes", [text])
    shown = parse("hermes", [text])
    assert "".join(each.text for each in shown if isinstance(each, Text)).strip() == text
    assert not any(isinstance(each, Call) for each in shown)


def test_a_bracket_too_few_behind_a_call_does_no_harm() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}</tool_call>Well.'
    assert parse("hermes", list(text)) == [PARIS, Text("Well.")]
    text = '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}, and so on'
    assert parse("mistral", list(text)) == [PARIS, Text("}, and so on")]


def test_half_of_a_surrogate_pair_is_written_as_json_writes_it() -> None:
    (call,) = parse("json", ['{"function": "f", "arguments": "{\\"a\\": \\"\\\\ud800\\"}"}'])
    assert call == Call("f", '{"a": "\\ud800"}')
    text = '{"name": "\\ud800", "arguments": {}}'
    assert parse("json", list(text)) == parse("json", [text]) == [Text(text)]
