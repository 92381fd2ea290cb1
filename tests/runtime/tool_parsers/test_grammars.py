"""The grammars of calls: what each format's parser reads is what they let through."""

import re
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tests.http.tokenizer_files import write_tokenizer

from pagedc.runtime.grammars import lark
from pagedc.runtime.structured_output import parser_limits
from pagedc.runtime.tool_parsers.call_grammars import calls_grammar, optional_calls_grammar
from pagedc.runtime.tool_parsers.events import CallStart
from pagedc.runtime.tool_parsers.formats import TOOL_FORMATS
from pagedc.runtime.tool_parsers.harmony import MARKERS

STRICT = {"properties": {"c": {"enum": ["x"]}}, "required": ["c"], "additionalProperties": False}
FUNCTIONS: list[tuple[str, Any]] = [("f", STRICT), ("g", {})]
# Formats whose markers are control tokens, and that know them as text.
CONTROL: list[dict[str, int]] = [{}, {"<tool_call>": 256, "[TOOL_CALLS]": 256, "<|tool_call|>": 256}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LLTokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return LLTokenizer((directory / "tokenizer.json").read_text(), eos_token=257, slices=[])


def accepts(tokenizer: LLTokenizer, grammar: str, text: str, control: dict[str, int]) -> bool:
    """Whether a text may be an answer."""
    matcher = LLMatcher(tokenizer, lark(grammar), limits=parser_limits())
    assert not matcher.is_error(), matcher.get_error()
    pieces = re.split("(" + "|".join(map(re.escape, control)) + ")", text) if control else [text]
    ids = [token for piece in pieces for token in ([control[piece]] if piece in control else piece.encode())]
    return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


def written(form: str, *calls: tuple[str, str]) -> str:
    tool_format = TOOL_FORMATS[form]
    texts = [tool_format.begin.replace("NAME", name) + text + tool_format.end for name, text in calls]
    return tool_format.opening + tool_format.separator.join(texts) + tool_format.closing


@pytest.mark.parametrize("control", CONTROL, ids=["text", "control"])
@pytest.mark.parametrize("form", TOOL_FORMATS)
def test_a_required_call_can_be_nothing_else(
    tokenizer: LLTokenizer, form: str, control: dict[str, int]
) -> None:
    grammar = calls_grammar(TOOL_FORMATS[form], FUNCTIONS, control, is_single=False)
    one, two = written(form, ("f", '{"c": "x"}')), written(form, ("f", '{"c": "x"}'), ("g", '{"z": 1}'))
    assert accepts(tokenizer, grammar, one, control)
    assert accepts(tokenizer, grammar, two, control) is not TOOL_FORMATS[form].is_single
    for wrong in (
        written(form, ("f", '{"c": "y"}')),
        written(form, ("h", "{}")),
        "Hello",
        "",
        "Well. " + one,
    ):
        assert not accepts(tokenizer, grammar, wrong, control)
    single = calls_grammar(TOOL_FORMATS[form], FUNCTIONS, control, is_single=True)
    assert accepts(tokenizer, single, one, control)
    assert not accepts(tokenizer, single, two, control)
    parser = TOOL_FORMATS[form].make_parser()
    calls = [event for event in parser.feed(two) + parser.finish() if isinstance(event, CallStart)]
    assert [call.name for call in calls] == ["f", "g"]


@pytest.mark.parametrize("control", CONTROL, ids=["text", "control"])
@pytest.mark.parametrize("form", [name for name, form in TOOL_FORMATS.items() if not form.has_channels])
def test_a_call_of_a_strict_tool_follows_its_schema(
    tokenizer: LLTokenizer, form: str, control: dict[str, int]
) -> None:
    grammar = optional_calls_grammar(TOOL_FORMATS[form], FUNCTIONS, control, is_single=False)
    right = written(form, ("f", '{"c": "x"}'), ("g", '{"z": 1}'))
    for text in (right, "Hello there, {x}.", "", "A line.\nAnother."):
        assert accepts(tokenizer, grammar, text, control)
    for wrong in (written(form, ("f", '{"c": "y"}')), written(form, ("f", "{}")), written(form, ("h", "{}"))):
        assert not accepts(tokenizer, grammar, wrong, control)
        if form not in ("json", "llama3"):  # there, what comes behind a text is text
            assert not accepts(tokenizer, grammar, "Well. " + wrong, control)


HARMONY = {marker: 256 + i for i, marker in enumerate(MARKERS)}
ALOUD = "<|channel|>analysis<|message|>Hm. {x}\n<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>It rains."


def test_harmony_thinks_before_it_calls(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, special=(*MARKERS, "<|endoftext|>"))
    tokenizer = LLTokenizer(
        (tmp_path / "tokenizer.json").read_text(), eos_token=256 + len(MARKERS), slices=[]
    )
    form = TOOL_FORMATS["harmony"]
    optional = optional_calls_grammar(form, FUNCTIONS, HARMONY, is_single=False)
    required = calls_grammar(form, FUNCTIONS, HARMONY, is_single=False)
    right, wrong = written("harmony", ("f", '{"c": "x"}')), written("harmony", ("f", '{"c": "y"}'))
    preamble = ALOUD.replace("analysis", "commentary")
    for text in (right, ALOUD + right, ALOUD + preamble + right, ALOUD + written("harmony", ("g", "{}"))):
        assert accepts(tokenizer, optional, text, HARMONY)
        assert accepts(tokenizer, required, text, HARMONY)
    for text in (wrong, ALOUD + wrong, ALOUD, "Hello", "", ALOUD + written("harmony", ("h", "{}"))):
        assert not accepts(tokenizer, optional, text, HARMONY)
        assert not accepts(tokenizer, required, text, HARMONY)
    assert accepts(tokenizer, optional, ALOUD + FINAL, HARMONY)
    assert not accepts(tokenizer, required, ALOUD + FINAL, HARMONY)
