"""Find the first stop string in a text that arrives in pieces, and hold back only what may be part of one."""

from collections.abc import Sequence


class StopStrings:
    """Knuth–Morris–Pratt for each string: linear in the text, wherever it is cut.

    The string that is complete first wins; of several that end together, the longest.
    """

    def __init__(self, strings: Sequence[str], *, include: bool = False) -> None:
        if not all(strings):
            raise ValueError("a stop string is empty")
        self.matched: str | None = None
        self._include = include
        self._patterns = [(string, _borders(string)) for string in strings]
        self._states = [0] * len(strings)  # characters of each string that the text ends with
        self._first = frozenset(string[0] for string in strings)
        self._held = ""

    def feed(self, text: str) -> str:
        """What may be shown of the text so far; nothing more once a string has matched."""
        if self.matched is not None:
            return ""
        if not self._held and self._first.isdisjoint(text):
            return text
        for i, character in enumerate(text):
            ends = self._advance(character)
            if ends:
                self.matched = max(ends, key=len)
                seen = self._held + text[: i + 1]
                self._held = ""
                return seen if self._include else seen[: len(seen) - len(self.matched)]
        seen = self._held + text
        shown = len(seen) - max(self._states, default=0)
        self._held = seen[shown:]
        return seen[:shown]

    def finish(self) -> str:
        """What was held back, when no more text will come."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> list[str]:
        """Take one character; the strings that it completes."""
        completed = []
        for j, (string, borders) in enumerate(self._patterns):
            state = self._states[j]
            while state and string[state] != character:
                state = borders[state - 1]
            if string[state] == character:
                state += 1
            if state == len(string):
                completed.append(string)
                state = borders[state - 1]
            self._states[j] = state
        return completed


def _borders(string: str) -> list[int]:
    """For each prefix, the length of the longest proper prefix that it also ends with."""
    borders = [0] * len(string)
    length = 0
    for i in range(1, len(string)):
        while length and string[i] != string[length]:
            length = borders[length - 1]
        if string[i] == string[length]:
            length += 1
        borders[i] = length
    return borders
