"""Calls out of a text that grows: their arguments go out while they are written."""

import re
from collections.abc import Callable

from pagedc.runtime.tool_parsers.arguments import Arguments, JsonArguments
from pagedc.runtime.tool_parsers.events import (
    Call,
    CallArguments,
    CallBroken,
    CallEnd,
    CallStart,
    Event,
    Text,
)
from pagedc.runtime.tool_parsers.gemma_arguments import GemmaArguments
from pagedc.runtime.tool_parsers.json_calls import make_call, readable_name
from pagedc.runtime.tool_parsers.tagged_arguments import TaggedArguments

# What stands between markers to the calls in it; None if it holds none.
Decode = Callable[[str], list[Call] | None]

MAX_HEAD = 1024  # characters before arguments that still go out as they grow

# No two neighbours of these patterns match the same character, so that there is nothing to go back to.
# A name is a group: "quoted" as JSON, any other as it is. Of some, the group says how arguments are written.
_WRITTEN: dict[str, Callable[[], Arguments]] = {"gemma": GemmaArguments, "tagged": TaggedArguments}
ARGUMENTS = r'(?=\{\s*["}])'
_JSON_HEAD = (
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?(?:"function"\s*:\s*\{\s*)?"name"\s*:\s*'
    r'(?P<quoted>"(?:[^"\\]|\\.)*+")\s*,\s*"(?:arguments|parameters|args|input)"\s*:\s*' + ARGUMENTS
)
JSON_HEAD = re.compile(r"\s*(?:\[\s*)?" + _JSON_HEAD)
_NEXT = re.compile(r"[\s}]*,\s*" + _JSON_HEAD)  # of a list
_CLOSING = re.compile(r"[\s}\]`]*")
BARE_HEAD = re.compile(r"\s*" + ARGUMENTS)


class CallStream:
    """The text between the markers of one call, or of a list of them.

    Where `head` matches its beginning, arguments go out as they grow; all else is decoded at the end.
    """

    def __init__(self, head: re.Pattern[str] | None, decode: Decode, *, name: str = "") -> None:
        self._head_pattern = head
        self._decode = decode
        self._name = name  # where no head gives one
        self._pieces: list[str] = []  # all of the text
        self._size = 0  # of what is behind us: characters
        self._head = ""  # what may become the beginning of a call
        self._reader: Arguments | None = None  # within arguments
        self._arguments: list[str] = []  # as JSON
        self._is_broken = False
        self._num_calls = 0  # that are whole
        self._used = 0  # characters up to the end of the last of them

    @property
    def has_calls(self) -> bool:
        """Whether a whole call has been found."""
        return self._num_calls > 0

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        events: list[Event] = []
        self._pieces.append(text)
        while text and not self._is_broken:
            if self._reader is not None:
                text = self._feed_arguments(self._reader, text, events)
            elif self._head_pattern is not None:
                text = self._feed_head(self._head_pattern, text, events)
            else:
                break
        return events

    def close(self, before: str, after: str) -> list[Event]:
        """The rest; `before` and `after` stood around the text, and stay where it holds no call."""
        content = "".join(self._pieces)
        rest = content[self._used :] + after if self._num_calls else before + content + after
        if self._reader is not None:
            last = None if self._is_broken else self._reader.finish()
            if last is None or make_call("it", "".join([*self._arguments, last])) is None:
                return [CallBroken(rest)]
            return [CallArguments(last), CallEnd()]
        calls = self._decode(content)
        if calls is not None and len(calls) >= self._num_calls:
            found = calls[self._num_calls :]
            self._num_calls = len(calls)
            return [event for call in found for event in call.events]
        if self._num_calls and _CLOSING.fullmatch(content, self._used):
            return []  # a bracket too many or too few behind whole calls
        return [Text(rest)] if rest else []

    def _feed_head(self, pattern: re.Pattern[str], text: str, events: list[Event]) -> str:
        """Look for the beginning of arguments; returns what follows it."""
        self._head += text
        match = pattern.match(self._head, 0, MAX_HEAD)
        name = self._name_of(match) if match else None
        if match is None or name is None:
            if match is not None or len(self._head) >= MAX_HEAD:
                self._head_pattern, self._head = None, ""
            return ""
        events.append(CallStart(name))
        self._reader = _WRITTEN.get(match.lastgroup or "", JsonArguments)()
        self._size += match.end()
        rest, self._head = self._head[match.end() :], ""
        return rest

    def _name_of(self, match: re.Match[str]) -> str | None:
        if match.lastgroup is None:
            return self._name
        return readable_name(match["quoted"]) if match.lastgroup == "quoted" else match[match.lastgroup]

    def _feed_arguments(self, reader: Arguments, text: str, events: list[Event]) -> str:
        """Give out arguments; returns what follows them."""
        try:
            piece, position = reader.feed(text)
        except ValueError:
            self._is_broken = True
            return ""
        self._arguments.append(piece)
        self._size += len(text) if position < 0 else position
        if piece:
            events.append(CallArguments(piece))
        if position < 0:
            return ""
        if make_call("it", "".join(self._arguments)) is None:
            self._is_broken = True
            return ""
        events.append(CallEnd())
        self._reader, self._head_pattern = None, _NEXT
        self._arguments.clear()
        self._num_calls += 1
        self._used = self._size
        return text[position:]
