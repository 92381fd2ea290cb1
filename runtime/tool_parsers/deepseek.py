"""DeepSeek's calls: V3 writes the arguments in a code fence, V3.1 and later do not."""

import re

from pagedc.runtime.tool_parsers.call_stream import ARGUMENTS
from pagedc.runtime.tool_parsers.events import Call
from pagedc.runtime.tool_parsers.json_calls import make_call

SEPARATOR = "<｜tool▁sep｜>"
HEAD = re.compile(
    rf"\s*(?P<plain>[^\s<]{{1,256}}+)\s*{SEPARATOR}\s*{ARGUMENTS}"
    rf"|\s*function\s*{SEPARATOR}\s*(?P<fenced>[^\s`<]{{1,256}}+)\s*```(?:json)?\s*{ARGUMENTS}"
)


def decode(text: str) -> list[Call] | None:
    """The call in a text; None if it is anything else."""
    name, separator, arguments = text.partition(SEPARATOR)
    if not separator:
        return None
    if name.strip() == "function" and "```" in arguments:
        name, _, arguments = arguments.partition("```")
        arguments = arguments.removeprefix("json").strip().removesuffix("```")
    call = make_call(name.strip(), arguments.strip())
    return [call] if call is not None else None
