"""Calls between <tool_call> and </tool_call>: JSON, or as Qwen's coders write them, tags a parameter."""

import re

from pagedc.runtime.tool_parsers.call_stream import JSON_HEAD
from pagedc.runtime.tool_parsers.events import Call
from pagedc.runtime.tool_parsers.json_calls import calls_of_text, make_call
from pagedc.runtime.tool_parsers.tagged_arguments import value_of

_FUNCTION = re.compile(r"\s*<function=(?P<tagged>[^<>\s]{1,256})>")
HEAD = re.compile(f"{JSON_HEAD.pattern}|{_FUNCTION.pattern}")


def decode(text: str) -> list[Call] | None:
    """The calls in a text; None if it is anything else."""
    function = _FUNCTION.match(text)
    if function is None:
        return calls_of_text(text)
    arguments = {}
    for part in text[function.end() :].split("<parameter=")[1:]:
        name, bracket, value = part.partition(">")
        value, end, _ = value.partition("</parameter>")
        if not bracket or not end:
            return None
        arguments[name] = value_of(value.removeprefix("\n").removesuffix("\n"))
    call = make_call(function[1], arguments)
    return [call] if call is not None else None
