"""Find fixed strings in a growing text, and hold back what may be the beginning of one."""

import re
from collections.abc import Sequence


class MarkerSplitter:
    """Cuts text at markers. No marker may contain another: which of them is meant would depend on the
    pieces.
    """

    def __init__(self, markers: Sequence[str]) -> None:
        for marker in markers:
            if any(marker in other for other in markers if other is not marker):
                raise ValueError(f"the marker {marker!r} is part of another")
        self._pattern = re.compile("|".join(map(re.escape, markers)))  # literals only: nothing to backtrack
        self._beginnings = frozenset(marker[:i] for marker in markers for i in range(1, len(marker)))
        self._longest = max(map(len, markers)) - 1
        self._held = ""

    def feed(self, text: str) -> list[tuple[str, str]]:
        """Pairs of text and the marker behind it, "" behind the last."""
        text, pairs, begin = self._held + text, [], 0
        for match in self._pattern.finditer(text):
            pairs.append((text[begin : match.start()], match[0]))
            begin = match.end()
        rest = text[begin:]
        size = min(self._longest, len(rest))
        while size and rest[-size:] not in self._beginnings:
            size -= 1
        self._held = rest[len(rest) - size :]
        pairs.append((rest[: len(rest) - size], ""))
        return pairs

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held
