"""Calls between <tool_call> and </tool_call>: JSON, or as Qwen's coders write them, tags a parameter."""

import json
import re

from pagedc.runtime.tool_parsers.events import Call
from pagedc.runtime.tool_parsers.json_calls import calls_of_text, make_call

_FUNCTION = re.compile(r"\s*<function=([^<>\s]{1,256})>")


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
        arguments[name] = _value(value.removeprefix("\n").removesuffix("\n"))
    call = make_call(function[1], arguments)
    return [call] if call is not None else None


def _value(text: str) -> object:
    """JSON where it is JSON of another type than a text: types are not written."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value
