"""gpt-oss's format: messages in channels, analysis, commentary and final, with calls among them.

<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json
<|message|>{…}<|call|>, or <|channel|>final<|message|>…<|return|>.
"""

from functools import partial

from pagedc.runtime.tool_parsers.call_stream import BARE_HEAD, CallStream
from pagedc.runtime.tool_parsers.events import Call, Event, Reasoning, Text
from pagedc.runtime.tool_parsers.json_calls import make_call
from pagedc.runtime.tool_parsers.markers import MarkerSplitter

MARKERS = (
    "<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|return|>", "<|constrain|>",
)  # fmt: skip
MAX_HEADER = 1024  # characters


class HarmonyParser:
    """Analysis is reasoning; commentary to a function is a call; all else is text."""

    def __init__(self) -> None:
        self._splitter = MarkerSplitter(MARKERS)
        self._header: list[str] | None = None  # between messages: recipient and channel
        self._channel = "final"
        self._call: CallStream | None = None

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        events: list[Event] = []
        for piece, marker in self._splitter.feed(text):
            self._take(piece, events)
            if marker:
                self._pass(marker, events)
        return events

    def finish(self) -> list[Event]:
        """The rest, when no text will come."""
        events: list[Event] = []
        self._take(self._splitter.finish(), events)
        self._close(events)
        return events

    def _take(self, piece: str, events: list[Event]) -> None:
        if not piece:
            return
        if self._header is not None:
            self._header.append(piece)
        elif self._call is not None:
            events += self._call.feed(piece)
        elif self._channel == "analysis":
            events.append(Reasoning(piece))
        else:
            events.append(Text(piece))

    def _pass(self, marker: str, events: list[Event]) -> None:
        if marker == "<|message|>":
            self._open()
        elif marker == "<|constrain|>" and self._header is not None:
            self._header.append(" constrain=")
        elif marker == "<|channel|>" and self._header is not None:
            self._header.append(" channel=")
        else:
            self._close(events)
            self._header = [" channel="] if marker == "<|channel|>" else []

    def _open(self) -> None:
        """A message begins: its header says what it is."""
        words = "".join(self._header or ())[:MAX_HEADER].split()
        self._header = None
        named = dict(word.split("=", 1) for word in words if "=" in word)
        self._channel = named.get("channel", "final")
        if recipient := named.get("to", "").removeprefix("functions."):
            self._call = CallStream(BARE_HEAD, partial(_decode, recipient), name=recipient)

    def _close(self, events: list[Event]) -> None:
        """A message ends; a call that cannot be read is text."""
        if self._call is not None:
            events += self._call.close("", "")
        self._call, self._channel = None, "final"


def _decode(recipient: str, text: str) -> list[Call] | None:
    call = make_call(recipient, text)
    return None if call is None else [call]
