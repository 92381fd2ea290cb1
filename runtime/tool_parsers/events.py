"""What a parser makes of a model's text."""

from typing import NamedTuple, Protocol


class Text(NamedTuple):
    """Plain content."""

    text: str


class Reasoning(NamedTuple):
    """What the model thinks aloud."""

    text: str


class Call(NamedTuple):
    """A whole call of a tool."""

    name: str
    arguments: str  # text of a JSON object


Event = Text | Reasoning | Call


class Parser(Protocol):
    """Fed the text of one answer as it grows. However it is cut into pieces, the same events come of it, but
    for where texts are cut; the time it takes is linear in the text's length.
    """

    def feed(self, text: str) -> list[Event]:
        """The events that are certain now."""
        ...

    def finish(self) -> list[Event]:
        """The rest, when no text will come."""
        ...
