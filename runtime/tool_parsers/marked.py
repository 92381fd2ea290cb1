"""Calls between markers: <tool_call>{…}</tool_call> and all that look like it."""

import re
from collections.abc import Sequence

from pagedc.runtime.tool_parsers.call_stream import CallStream, Decode
from pagedc.runtime.tool_parsers.events import Event, Text
from pagedc.runtime.tool_parsers.markers import MarkerSplitter


class MarkedParser:
    """From `begin` to `end`, to the next `begin` or to the end of the text is a call; what cannot be read as
    one stays text, markers and all. Around calls, `dropped` markers are left out.
    """

    def __init__(
        self,
        begin: Sequence[str],
        end: Sequence[str],
        decode: Decode,
        dropped: Sequence[str] = (),
        *,
        head: re.Pattern[str] | None = None,  # of arguments that go out as they grow
    ) -> None:
        self._begin = frozenset(begin)
        self._end = frozenset(end)
        self._splitter = MarkerSplitter([*begin, *end, *dropped])
        self._decode = decode
        self._head = head
        self._opened = ""  # the marker that began the call that we are in
        self._stream: CallStream | None = None  # of that call

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        events: list[Event] = []
        for piece, marker in self._splitter.feed(text):
            self._take(piece, events)
            if marker in self._begin:
                self._close("", events)
                self._opened = marker
                self._stream = CallStream(self._head, self._decode)
            elif marker in self._end and self._stream is not None:
                self._close(marker, events)
            elif marker in self._end:
                events.append(Text(marker))
        return events

    def finish(self) -> list[Event]:
        """The rest, when no text will come."""
        events: list[Event] = []
        self._take(self._splitter.finish(), events)
        self._close("", events)
        return events

    def _take(self, piece: str, events: list[Event]) -> None:
        if self._stream is not None:
            events += self._stream.feed(piece)
        elif piece:
            events.append(Text(piece))

    def _close(self, marker: str, events: list[Event]) -> None:
        """The call that we are in, if any, ends."""
        if self._stream is not None:
            events += self._stream.close(self._opened, marker)
            self._stream = None
