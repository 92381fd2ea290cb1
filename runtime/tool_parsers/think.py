"""Reasoning between markers, <think>…</think> and its relatives, apart from the answer."""

from typing import Literal

from pagedc.runtime.tool_parsers.events import Event, Reasoning, Text
from pagedc.runtime.tool_parsers.markers import MarkerSplitter


class ThinkParser:
    """Reasoning may stand at an answer's beginning only: after `begin`, or at once where the prompt ends with
    it, up to `end`. The space around it is left out.
    """

    def __init__(self, begin: str, end: str, *, is_open: bool) -> None:
        self._begin = begin
        self._splitter = MarkerSplitter([end])
        self._state: Literal["start", "reasoning", "space", "answer"] = "reasoning" if is_open else "start"
        self._spaces: list[str] = []  # held back: they are left out if nothing follows them
        self._head = ""  # what may become `begin`
        self._has_begun = False  # whether some reasoning was given out

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        events: list[Event] = []
        if self._state == "start":
            text = self._feed_start(text)
        if self._state == "reasoning":
            text = self._feed_reasoning(text, events)
        if self._state == "space":
            text = text.lstrip()
            if text:
                self._state = "answer"
        if self._state == "answer" and text:
            events.append(Text(text))
        return events

    def finish(self) -> list[Event]:
        """The rest, when no text will come."""
        events: list[Event] = []
        if self._state == "start" and (self._spaces or self._head):
            events.append(Text("".join(self._spaces) + self._head))
        elif self._state == "reasoning":
            self._reason(self._splitter.finish(), events)
        return events

    def _feed_start(self, text: str) -> str:
        """Look for `begin`; returns what follows it, or the text so far if it cannot come any more."""
        if not self._head:
            stripped = text.lstrip()
            self._spaces.append(text[: len(text) - len(stripped)])
            text = stripped
        head = self._head + text
        if head.startswith(self._begin):
            self._state, self._head = "reasoning", ""
            self._spaces.clear()
            return head[len(self._begin) :]
        if self._begin.startswith(head):
            self._head = head
            return ""
        self._state, self._head = "answer", ""
        return "".join(self._spaces) + head

    def _feed_reasoning(self, text: str, events: list[Event]) -> str:
        """Give out reasoning; returns what follows `end`."""
        pieces = self._splitter.feed(text)
        self._reason(pieces[0][0], events)
        if not pieces[0][1]:
            return ""
        self._state = "space"
        rest = "".join(piece + marker for piece, marker in pieces[1:])
        return rest + self._splitter.finish()

    def _reason(self, text: str, events: list[Event]) -> None:
        if not self._has_begun:
            text = text.lstrip()
        stripped = text.rstrip()
        if stripped:
            events.append(Reasoning("".join(self._spaces) + stripped))
            self._spaces.clear()
            self._has_begun = True
        if self._has_begun:
            self._spaces.append(text[len(stripped) :])
