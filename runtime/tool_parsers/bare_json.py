"""An answer that is nothing but calls as JSON, with or without a marker or a code fence before them."""

from pagedc.runtime.tool_parsers.call_stream import JSON_HEAD, CallStream
from pagedc.runtime.tool_parsers.events import Event, Text
from pagedc.runtime.tool_parsers.json_calls import JsonEnd, calls_of_text

_BETWEEN = " \t\r\n;,"
MAX_HEAD = 1024  # characters before a bracket


class BareJsonParser:
    """The text is calls as long as it consists of JSON that names a function; from there on it is content."""

    def __init__(self, prefixes: tuple[str, ...] = ()) -> None:
        self._prefixes = prefixes  # what may stand before a call and then is left out
        self._is_text = self._has_calls = False
        self._head = ""  # what came before the first bracket
        self._end: JsonEnd | None = None  # of the JSON that we are in
        self._stream = CallStream(JSON_HEAD, calls_of_text)  # of that JSON

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        events: list[Event] = []
        while text:
            if self._is_text:
                events.append(Text(text))
                break
            text = self._feed_head(text, events) if self._end is None else self._feed_json(text, events)
        return events

    def finish(self) -> list[Event]:
        """The rest, when no text will come."""
        if self._end is not None:
            events = self._stream.close(self._head, "")
        elif self._head and not (self._has_calls and self._head.strip(_BETWEEN) in ("", *self._prefixes)):
            events = [Text(self._head)]
        else:
            events = []  # or the end of a code fence
        self._head, self._end = "", None
        return events

    def _feed_head(self, text: str, events: list[Event]) -> str:
        """Take what stands before a bracket; returns what is left."""
        position = min((i for i in (text.find("{"), text.find("[")) if i >= 0), default=len(text))
        head = self._head + text[:position]
        stripped = head.lstrip(_BETWEEN)
        is_complete = position < len(text)
        if len(head) <= MAX_HEAD and (not stripped or stripped.rstrip() in self._prefixes):
            self._head = head
            if is_complete:
                self._end, self._stream = JsonEnd(), CallStream(JSON_HEAD, calls_of_text)
            return text[position:]
        if not is_complete and any(prefix.startswith(stripped) for prefix in self._prefixes):
            self._head = head
            return ""
        self._is_text, self._head = True, ""
        events.append(Text(head))
        return text[position:]

    def _feed_json(self, text: str, events: list[Event]) -> str:
        assert self._end is not None
        position = self._end.feed(text)
        events += self._stream.feed(text if position < 0 else text[:position])
        if position < 0:
            return ""
        events += self._stream.close(self._head, "")
        self._is_text = not self._stream.has_calls
        self._has_calls |= self._stream.has_calls
        self._head, self._end = "", None
        return text[position:]
