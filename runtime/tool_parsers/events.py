"""What a parser makes of a model's text."""

from typing import NamedTuple, Protocol


class Text(NamedTuple):
    """Plain content."""

    text: str


class Reasoning(NamedTuple):
    """What the model thinks aloud."""

    text: str


class CallStart(NamedTuple):
    """A call of a tool begins; its arguments follow."""

    name: str


class CallArguments(NamedTuple):
    """More of the arguments: together they are the text of a JSON object."""

    text: str


class CallEnd(NamedTuple):
    """The call is whole."""


class CallBroken(NamedTuple):
    """What has begun as a call is none, or was cut short: this is all that it was made of."""

    text: str


class Call(NamedTuple):
    """A whole call, as a format's decoder finds it."""

    name: str
    arguments: str  # text of a JSON object

    @property
    def events(self) -> "list[Event]":
        """The same as events."""
        return [CallStart(self.name), CallArguments(self.arguments), CallEnd()]


Event = Text | Reasoning | CallStart | CallArguments | CallEnd | CallBroken


class Parser(Protocol):
    """Fed the text of one answer as it grows. However it is cut into pieces, the same events come of it, but
    for where texts and arguments are cut; the time it takes is linear in the text's length.
    """

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        ...

    def finish(self) -> list[Event]:
        """The rest, when no text will come."""
        ...
