"""One answer's text to content, reasoning and calls: a reasoning parser before a tool parser."""

from collections.abc import Iterable

from pagedc.runtime.tool_parsers.events import CallBroken, CallStart, Event, Parser, Reasoning, Text


class AnswerParser:
    """What both parsers make of a growing text. The space around calls is left out, and what
    stands on both sides of one is on lines of its own."""

    def __init__(self, reasoning: Parser | None, tools: Parser | None) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self._spaces: list[str] = []  # held back: they are left out beside a call
        self._is_after_call = self._has_text = False
        self._before_call = "", False  # the spaces and whether we were after a call, when the last began

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        events = self._reasoning.feed(text) if self._reasoning else [Text(text)]
        return self._trim(self._to_tools(events))

    def finish(self) -> list[Event]:
        """The rest, when no text will come."""
        events = self._to_tools(self._reasoning.finish() if self._reasoning else [])
        if self._tools is not None:
            events += self._tools.finish()
        trimmed = self._trim(events)
        if self._spaces and not self._is_after_call:
            trimmed.append(Text("".join(self._spaces)))
        return trimmed

    def _to_tools(self, events: Iterable[Event]) -> list[Event]:
        if self._tools is None:
            return list(events)
        found: list[Event] = []
        for event in events:
            found += self._tools.feed(event.text) if isinstance(event, Text) else [event]
        return found

    def _trim(self, events: list[Event]) -> list[Event]:
        trimmed: list[Event] = []
        for event in events:
            if isinstance(event, Text | Reasoning) and not event.text:
                continue
            if isinstance(event, Text) and self._tools is not None:
                self._trim_text(event.text, trimmed)
                continue
            if isinstance(event, CallStart):
                self._before_call = "".join(self._spaces), self._is_after_call
                self._spaces.clear()
                self._is_after_call = True
            elif isinstance(event, CallBroken):
                spaces, self._is_after_call = self._before_call
                text: list[Event] = []
                self._trim_text(spaces + event.text, text)
                event = CallBroken("".join(each.text for each in text if isinstance(each, Text)))
            trimmed.append(event)
        return trimmed

    def _trim_text(self, text: str, trimmed: list[Event]) -> None:
        if self._is_after_call:
            text = text.lstrip()
        stripped = text.rstrip()
        if stripped:
            between = "\n" if self._is_after_call and self._has_text else ""
            trimmed.append(Text(between + "".join(self._spaces) + stripped))
            self._spaces.clear()
            self._is_after_call, self._has_text = False, True
        if not self._is_after_call and len(stripped) < len(text):
            self._spaces.append(text[len(stripped) :])
