"""Calls between markers: <tool_call>{…}</tool_call> and all that look like it."""

from collections.abc import Callable, Sequence

from pagedc.runtime.tool_parsers.events import Call, Event, Text
from pagedc.runtime.tool_parsers.markers import MarkerSplitter

# What stands between markers to the calls in it; None if it holds none.
Decode = Callable[[str], list[Call] | None]


class MarkedParser:
    """From `begin` to `end`, to the next `begin` or to the end of the text is a call; what cannot be read as
    one stays text, markers and all. Around calls, `dropped` markers are left out.
    """

    def __init__(
        self, begin: Sequence[str], end: Sequence[str], decode: Decode, dropped: Sequence[str] = ()
    ) -> None:
        self._begin = frozenset(begin)
        self._end = frozenset(end)
        self._splitter = MarkerSplitter([*begin, *end, *dropped])
        self._decode = decode
        self._opened = ""  # the marker that began the call that we are in
        self._pieces: list[str] = []  # of that call

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        events: list[Event] = []
        for piece, marker in self._splitter.feed(text):
            self._take(piece, events)
            if marker in self._begin:
                self._close("", events)
                self._opened = marker
            elif marker in self._end and self._opened:
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
        if self._opened:
            self._pieces.append(piece)
        elif piece:
            events.append(Text(piece))

    def _close(self, marker: str, events: list[Event]) -> None:
        """The call that we are in, if any, ends."""
        if not self._opened:
            return
        content = "".join(self._pieces)
        calls = self._decode(content)
        events += calls if calls is not None else [Text(self._opened + content + marker)]
        self._opened = ""
        self._pieces.clear()
