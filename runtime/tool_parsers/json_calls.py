"""Calls out of JSON: {"name": …, "arguments": {…}} in the variants that models write."""

import json
import re
from typing import Any

from pagedc.runtime.tool_parsers.events import Call

_NESTED = ("function", "function_call")
_NAMES = ("name", "function", "function_name", "tool_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_STRUCTURE = re.compile(r'["\\{}\[\]]')
MAX_NAME = 256  # characters


def calls_of_text(text: str) -> list[Call] | None:
    """The calls in a JSON text; None if it is anything else."""
    try:
        return calls_of(json.loads(text))
    except (ValueError, RecursionError):
        return None


def calls_of(value: Any) -> list[Call] | None:
    """The calls in a JSON value, an object or a list of them; None if it is anything else."""
    calls = []
    for each in value if isinstance(value, list) else [value]:
        call = _call_of(each)
        if call is None:
            return None
        calls.append(call)
    return calls or None


def make_call(name: Any, arguments: Any) -> Call | None:
    """A call, if these are a name and an object, or the text of one."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not _is_name(name) or not isinstance(arguments, dict):
        return None
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    if not _is_unicode(text):
        text = json.dumps(arguments)
    return Call(name, text)


def readable_name(quoted: str) -> str | None:
    """A name out of JSON text; None if it is none."""
    try:
        name = json.loads(quoted)
    except ValueError:
        return None
    return name if _is_name(name) else None


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and _is_unicode(name)


def _is_unicode(text: str) -> bool:
    """Without halves of surrogate pairs, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _call_of(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    for key in _NESTED:
        if isinstance(value.get(key), dict):
            value = value[key]
            break
    name = next((value[key] for key in _NAMES if key in value), None)
    return make_call(name, next((value[key] for key in _ARGUMENTS if key in value), {}))


class JsonEnd:
    """Finds where a JSON object or list ends that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = False
        self._is_escaped = False  # the next piece begins with an escaped character

    def feed(self, text: str) -> int:
        """The position in this piece behind the value's last bracket, -1 if it goes on."""
        begin = 0
        if self._is_escaped and text:
            begin, self._is_escaped = 1, False
        while (match := _STRUCTURE.search(text, begin)) is not None:
            begin = match.end()
            character = match[0]
            if character == "\\":
                if self._is_string:
                    self._is_escaped = begin == len(text)
                    begin += 1
            elif character == '"':
                self._is_string = not self._is_string
            elif not self._is_string:
                self._depth += 1 if character in "{[" else -1
                if self._depth <= 0:
                    return begin
        return -1
