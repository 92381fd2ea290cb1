"""Arguments of a call that arrive in pieces, given out as the text of a JSON object."""

from typing import Protocol

from pagedc.runtime.tool_parsers.json_calls import JsonEnd


class Arguments(Protocol):
    """How a format writes them."""

    def feed(self, text: str) -> tuple[str, int]:
        """The JSON that is certain now, and the position in this piece behind the arguments, -1 if they go
        on. Raises ValueError for what can be none.
        """
        ...

    def finish(self) -> str | None:
        """The rest, where the text ends here; None if that leaves them unfinished."""
        ...


class JsonArguments:
    """As they are."""

    def __init__(self) -> None:
        self._end = JsonEnd()

    def feed(self, text: str) -> tuple[str, int]:
        """Whether they are JSON is seen at the end."""
        position = self._end.feed(text)
        return (text if position < 0 else text[:position]), position

    def finish(self) -> str | None:
        """They end with their last bracket."""
        return None


def held_back(text: str, begin: int, *markers: str) -> int:
    """How many characters at the end of `text[begin:]` may be the beginning of a marker."""
    longest = min(max(map(len, markers)) - 1, len(text) - begin)
    return next(
        (size for size in range(longest, 0, -1) if any(m.startswith(text[-size:]) for m in markers)), 0
    )
