"""Every format by name: how its calls are read, and how they are written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pagedc.runtime.tool_parsers import deepseek, gemma, gemma_arguments, harmony, hermes, mistral
from pagedc.runtime.tool_parsers.bare_json import BareJsonParser
from pagedc.runtime.tool_parsers.call_stream import JSON_HEAD
from pagedc.runtime.tool_parsers.events import Parser
from pagedc.runtime.tool_parsers.harmony import HarmonyParser
from pagedc.runtime.tool_parsers.json_calls import calls_of_text
from pagedc.runtime.tool_parsers.marked import MarkedParser
from pagedc.runtime.tool_parsers.think import ThinkParser

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
    has_channels: bool = False  # harmony's: the answer is messages, and a call is one of them
    id_length: int = 0  # of ids made of letters and digits alone; 0 = of any form


_JSON_BEGIN = '{"name": "NAME", "arguments": '
_MARKED_LIST = ToolFormat(
    make_parser=partial(
        MarkedParser, ("<|tool_call|>", "functools"), ("<|/tool_call|>",), calls_of_text, head=JSON_HEAD
    ),
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
            head=deepseek.HEAD,
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
            head=gemma.HEAD,
        ),
        markers=(
            "<start_function_call>",
            "<end_function_call>",
            "<|tool_call>",
            "<tool_call|>",
            *gemma_arguments.QUOTES,
        ),
        begin="<start_function_call>call:NAME",
        end="<end_function_call>",
        separator="",
    ),
    "granite": ToolFormat(
        make_parser=partial(
            MarkedParser, ("<|tool_call|>", "<function_call>"), (), calls_of_text, head=JSON_HEAD
        ),
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
        has_channels=True,
    ),
    "hermes": ToolFormat(
        make_parser=partial(
            MarkedParser, ("<tool_call>",), ("</tool_call>",), hermes.decode, head=hermes.HEAD
        ),
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
        make_parser=partial(MarkedParser, ("[TOOL_CALLS]",), (), mistral.decode, head=mistral.HEAD),
        markers=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        opening="[TOOL_CALLS][",
        begin=_JSON_BEGIN,
        end="}",
        separator=", ",
        closing="]",
        id_length=9,  # its template refuses any other
    ),
    "mistral_args": ToolFormat(
        make_parser=partial(MarkedParser, ("[TOOL_CALLS]",), (), mistral.decode, head=mistral.HEAD),
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
