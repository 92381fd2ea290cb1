"""Every format by name: how its calls are read, and how they are written where a call is required."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pagedc.runtime.grammars import inline_schema, literal
from pagedc.runtime.tool_parsers import deepseek, gemma, harmony, hermes, mistral
from pagedc.runtime.tool_parsers.bare_json import BareJsonParser
from pagedc.runtime.tool_parsers.events import Parser
from pagedc.runtime.tool_parsers.harmony import HarmonyParser
from pagedc.runtime.tool_parsers.json_calls import calls_of_text
from pagedc.runtime.tool_parsers.marked import MarkedParser
from pagedc.runtime.tool_parsers.think import ThinkParser

NO_ARGUMENTS: Mapping[str, Any] = {"properties": {}, "additionalProperties": False}
_FENCES = ("```json", "```")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """How one family of models writes calls. `begin`, NAME standing for the function's, arguments as JSON and
    `end` are a call.
    """

    make_parser: Callable[[], Parser]
    begin: str
    end: str
    markers: tuple[str, ...] = ()  # those that are control tokens must reach the parser
    opening: str = ""  # before the first call
    separator: str = "\n"
    closing: str = ""  # behind the last
    is_single: bool = False  # a call ends the answer
    id_length: int = 0  # of ids made of letters and digits alone; 0 = of any form


_JSON_BEGIN = '{"name": "NAME", "arguments": '
_MARKED_LIST = ToolFormat(
    make_parser=partial(MarkedParser, ("<|tool_call|>", "functools"), ("<|/tool_call|>",), calls_of_text),
    markers=("<|tool_call|>", "<|/tool_call|>"),
    opening="<|tool_call|>[",
    begin=_JSON_BEGIN,
    end="}",
    separator=", ",
    closing="]<|/tool_call|>",
)

TOOL_FORMATS: Mapping[str, ToolFormat] = {
    "deepseek": ToolFormat(
        make_parser=partial(
            MarkedParser,
            ("<｜tool▁call▁begin｜>",),
            ("<｜tool▁call▁end｜>",),
            deepseek.decode,
            ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        ),
        markers=(
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            deepseek.SEPARATOR,
        ),
        opening="<｜tool▁calls▁begin｜>",
        begin=f"<｜tool▁call▁begin｜>NAME{deepseek.SEPARATOR}",
        end="<｜tool▁call▁end｜>",
        separator="",
        closing="<｜tool▁calls▁end｜>",
    ),
    "gemma": ToolFormat(
        make_parser=partial(
            MarkedParser,
            ("<start_function_call>", "<|tool_call>"),
            ("<end_function_call>", "<tool_call|>"),
            gemma.decode,
        ),
        markers=(
            "<start_function_call>",
            "<end_function_call>",
            "<|tool_call>",
            "<tool_call|>",
            *gemma.QUOTES,
        ),
        begin="<start_function_call>call:NAME",
        end="<end_function_call>",
        separator="",
    ),
    "granite": ToolFormat(
        make_parser=partial(MarkedParser, ("<|tool_call|>", "<function_call>"), (), calls_of_text),
        markers=("<|tool_call|>", "<function_call>"),
        opening="<|tool_call|>[",
        begin=_JSON_BEGIN,
        end="}",
        separator=", ",
        closing="]",
    ),
    "harmony": ToolFormat(
        make_parser=HarmonyParser,
        markers=harmony.MARKERS,
        begin="<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>",
        end="<|call|>",
        is_single=True,
    ),
    "hermes": ToolFormat(
        make_parser=partial(MarkedParser, ("<tool_call>",), ("</tool_call>",), hermes.decode),
        markers=("<tool_call>", "</tool_call>"),
        begin="<tool_call>\n" + _JSON_BEGIN,
        end="}\n</tool_call>",
    ),
    "json": ToolFormat(
        make_parser=partial(BareJsonParser, _FENCES), begin=_JSON_BEGIN, end="}", separator="\n"
    ),
    "llama3": ToolFormat(
        make_parser=partial(BareJsonParser, ("<|python_tag|>", *_FENCES)),
        markers=("<|python_tag|>",),
        begin='{"name": "NAME", "parameters": ',
        end="}",
        separator="; ",
    ),
    "mistral": ToolFormat(
        make_parser=partial(MarkedParser, ("[TOOL_CALLS]",), (), mistral.decode),
        markers=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        opening="[TOOL_CALLS][",
        begin=_JSON_BEGIN,
        end="}",
        separator=", ",
        closing="]",
        id_length=9,  # its template refuses any other
    ),
    "mistral_args": ToolFormat(
        make_parser=partial(MarkedParser, ("[TOOL_CALLS]",), (), mistral.decode),
        markers=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        begin="[TOOL_CALLS]NAME[ARGS]",
        end="",
        separator="",
        id_length=9,
    ),
    "phi": _MARKED_LIST,
}

# Name: the markers around reasoning. Harmony's channels are read by its tool format.
REASONING_FORMATS: Mapping[str, tuple[str, str]] = {
    "kimi": ("◁think▷", "◁/think▷"),
    "mistral": ("[THINK]", "[/THINK]"),
    "reason": ("<reasoning>", "</reasoning>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "think": ("<think>", "</think>"),
}


def make_reasoning_parser(name: str, *, is_open: bool) -> ThinkParser:
    """`is_open`: the prompt ends within reasoning already."""
    begin, end = REASONING_FORMATS[name]
    return ThinkParser(begin, end, is_open=is_open)


def calls_grammar(
    form: ToolFormat,
    functions: Sequence[tuple[str, Mapping[str, Any] | None]],  # names, and the schemas of their arguments
    control_tokens: Mapping[str, int],
    *,
    is_single: bool,
) -> str:
    """A Lark grammar of one call or more; ValueError names a keyword of a schema that is not supported."""
    return _lark(form, functions, control_tokens, is_single=is_single, trigger="")


def optional_calls_grammar(
    form: ToolFormat,
    functions: Sequence[tuple[str, Mapping[str, Any] | None]],  # None = arguments of any form
    control_tokens: Mapping[str, int],
    *,
    is_single: bool,
) -> str:
    """A Lark grammar of any text, in which what begins a call must go on as one; "" where that cannot be
    told.
    """
    first = form.opening or form.begin.partition("NAME")[0]
    if form.is_single:
        return ""  # harmony: channels come before calls
    trigger = next((marker for marker in form.markers if first.startswith(marker)), "{")
    calls = _lark(form, functions, control_tokens, is_single=is_single, trigger=trigger)
    if trigger == "{":
        return f"start: TEXT | calls_only\nTEXT: /([^{{\\s](.|\\n)*)?/\n{calls}"
    if trigger in control_tokens:
        return f"start: TEXT (<[{control_tokens[trigger]}]> calls_only)?\nTEXT: /(.|\\n)*/\n{calls}"
    words = re.escape(trigger).replace("/", "\\/")
    return (
        f"start: TEXT | before calls_only\nTEXT: /(.|\\n)*/ & ~/(.|\\n)*{words}(.|\\n)*/\n"
        f"before[lazy]: /(.|\\n)*{words}/\n{calls}"
    )


def _lark(
    form: ToolFormat,
    functions: Sequence[tuple[str, Mapping[str, Any] | None]],
    control_tokens: Mapping[str, int],
    *,
    is_single: bool,
    trigger: str,  # where it stands already: then the first call is without it, and `start` is the caller's
) -> str:

    def text(value: str) -> str:
        return with_control_tokens(value, control_tokens)

    cut = trigger if trigger != "{" else ""
    rules = [
        f"first: {' | '.join(f'first_{i}' for i in range(len(functions)))}",
        f"calls: {' | '.join(f'call_{i}' for i in range(len(functions)))}",
    ]
    more = "" if is_single or form.is_single else f"({text(form.separator)} calls)*"
    opening = text(form.opening.removeprefix(cut))
    start = f"{'calls_only' if trigger else 'start'}: {opening} first {more} {text(form.closing)}"
    for i, (name, schema) in enumerate(functions):
        arguments = inline_schema({**(NO_ARGUMENTS if schema is None else schema), "type": "object"})
        begin, end = form.begin.replace("NAME", name), text(form.end)
        first = begin if form.opening else begin.removeprefix(cut)
        rules.append(f"first_{i}: {text(first)} arguments_{i} {end}")
        rules.append(f"call_{i}: {text(begin)} arguments_{i} {end}\narguments_{i}: {arguments}")
    return "\n".join([start, *rules]) + "\n"


def with_control_tokens(value: str, control_tokens: Mapping[str, int]) -> str:
    """A text in Lark, in which control tokens stand as themselves."""
    for word, token_id in control_tokens.items():
        if word in value:
            before, _, after = value.partition(word)
            parts = [
                with_control_tokens(before, control_tokens),
                f"<[{token_id}]>",
                with_control_tokens(after, control_tokens),
            ]
            return " ".join(part for part in parts if part)
    return literal(value) if value else ""
