"""Answers made of items, one after another: a text, a reasoning, a call of a tool.

/v1/responses calls them output items and /v1/messages content blocks; how an answer falls into them is the
same.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pagedc.runtime.server.answers import Answer
from pagedc.runtime.server.failures import Failure
from pagedc.runtime.server.generation import Delta
from pagedc.runtime.server.sse import sse_event
from pagedc.runtime.tool_parsers.events import (
    CallArguments,
    CallBroken,
    CallEnd,
    CallStart,
    Event,
    Reasoning,
    Text,
)

ItemKind = Literal["text", "reasoning", "call"]


@dataclass(slots=True)
class Item:
    """One part of an answer as it grows."""

    kind: ItemKind
    index: int
    name: str = ""  # of the tool that is called
    parts: list[str] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    is_closed: bool = False
    is_broken: bool = False  # a call that was cut short, in a stream that has begun it

    @property
    def text(self) -> str:
        """Its text; of a call, its arguments as JSON."""
        return "".join(self.parts)


class Change(NamedTuple):
    """What a delta did to an item."""

    what: Literal["open", "grow", "close"]
    item: Item
    text: str = ""


class ItemAnswer(Answer):
    """The one choice of a request, as items; a subclass has the names of its endpoint."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.items: list[Item] = []
        self.num_reasoning_tokens = 0
        self._is_begun = False

    @property
    def has_calls(self) -> bool:
        """Whether a tool is called."""
        return any(item.kind == "call" and not item.is_broken for item in self.items)

    def collect(self, delta: Delta) -> None:
        """Keep what an event brought."""
        for _ in self._changes(delta):
            pass

    def stream(self, delta: Delta) -> bytes:
        """The events that a delta makes; b"" while its text is held back."""
        events = [] if self._is_begun else self.beginning()
        self._is_begun = True
        for change in self._changes(delta):
            events += self.events_of(change)
        return b"".join(map(_named_event, events))

    def stream_end(self) -> bytes:
        """The last events of a stream."""
        return b"".join(map(_named_event, self.ending()))

    def stream_error(self, failure: Failure) -> bytes:
        """The event that ends a broken stream."""
        error = failure.body.error
        return _named_event({"type": "error", "error": {"type": error.type, "message": error.message}})

    def beginning(self) -> list[dict[str, Any]]:
        """The events before the first item."""
        raise NotImplementedError

    def events_of(self, change: Change) -> list[dict[str, Any]]:
        """The events of one change."""
        raise NotImplementedError

    def ending(self) -> list[dict[str, Any]]:
        """The events after the last item."""
        raise NotImplementedError

    def _changes(self, delta: Delta) -> Iterator[Change]:
        events: tuple[Event, ...] = tuple(delta.events)
        if delta.choice.parser is None:
            events = (Text(delta.text),)
        if events and all(isinstance(event, Reasoning) for event in events):
            self.num_reasoning_tokens += len(delta.token_ids)
        for event in events:
            yield from self._changes_of(event)
        if delta.finish_reason is not None:
            yield from self._close()

    def _changes_of(self, event: Event) -> Iterator[Change]:
        if isinstance(event, CallStart):
            yield from self._close()
            yield Change("open", self._open("call", event.name))
        elif isinstance(event, CallArguments):
            yield self._add(event.text)
        elif isinstance(event, CallEnd):
            yield from self._close()
        elif isinstance(event, CallBroken):
            yield from self._break(event.text)
        elif event.text:
            yield from self._grow("text" if isinstance(event, Text) else "reasoning", event.text)

    def _grow(self, kind: ItemKind, text: str) -> Iterator[Change]:
        if not self.items or self.items[-1].is_closed or self.items[-1].kind != kind:
            yield from self._close()
            yield Change("open", self._open(kind))
        yield self._add(text)

    def _add(self, text: str) -> Change:
        item = self.items[-1]
        item.parts.append(text)
        return Change("grow", item, text)

    def _break(self, text: str) -> Iterator[Change]:
        """A call is none: text, unless a stream has begun it."""
        if self.request.stream:
            self.items[-1].is_broken = True
            yield from self._close()
            return
        self.items.pop()
        if self.items and self.items[-1].kind == "text":
            self.items[-1].is_closed = False
        yield from self._grow("text", text)

    def _open(self, kind: ItemKind, name: str = "") -> Item:
        self.items.append(Item(kind, len(self.items), name))
        return self.items[-1]

    def _close(self) -> Iterator[Change]:
        if self.items and not self.items[-1].is_closed:
            self.items[-1].is_closed = True
            yield Change("close", self.items[-1])


def _named_event(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\n".encode() + sse_event(event)
