"""Mistral's calls behind [TOOL_CALLS]: a list of JSON objects, or since v11 a name and its arguments."""

import re

from pagedc.runtime.tool_parsers.call_stream import ARGUMENTS, JSON_HEAD
from pagedc.runtime.tool_parsers.events import Call
from pagedc.runtime.tool_parsers.json_calls import calls_of_text, make_call

HEAD = re.compile(
    JSON_HEAD.pattern
    + r"|\s*(?P<plain>[^\s\[{]{1,256}+)\s*(?:\[CALL_ID\][^\s\[{]*\s*)?(?:\[ARGS\]\s*)?"
    + ARGUMENTS
)


def decode(text: str) -> list[Call] | None:
    """The calls in a text; None if it is anything else."""
    text = text.strip()
    if text.startswith(("[{", "[ {", "[\n", "{")):
        return calls_of_text(text)
    name, marker, arguments = text.partition("[ARGS]")
    if not marker:
        position = text.find("{")
        if position < 0:
            return None
        name, arguments = text[:position], text[position:]
    call = make_call(name.partition("[CALL_ID]")[0].strip(), arguments.strip())
    return [call] if call is not None else None
