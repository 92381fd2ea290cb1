"""Gemma's calls: call:name{key:<escape>text<escape>,other:3}, JSON but for its strings and bare keys."""

import json
import re
from typing import Any

from pagedc.runtime.tool_parsers.events import Call
from pagedc.runtime.tool_parsers.gemma_arguments import MAX_DEPTH, QUOTES
from pagedc.runtime.tool_parsers.json_calls import make_call

HEAD = re.compile(r"\s*call:(?P<gemma>[A-Za-z0-9_.-]{1,256})\s*(?=\{)")
_KEY = re.compile(r"[A-Za-z0-9_.$ -]+")
_BARE = re.compile(r"[^,\]}\s]+")
_JSON = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


def decode(text: str) -> list[Call] | None:
    """The call in a text; None if it is anything else."""
    head = HEAD.match(text)
    if head is None:
        return None
    try:
        reader = _Reader(text, head.end())
        value = reader.value(0)
        reader.skip()
    except ValueError:
        return None
    call = make_call(head[1], value) if reader.position == len(text) else None
    return [call] if call is not None else None


class _Reader:
    def __init__(self, text: str, position: int) -> None:
        self._text = text
        self.position = position

    def value(self, depth: int) -> Any:
        """One value; raises ValueError for what is none."""
        self.skip()
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if self._accept("{"):
            return self._object(depth)
        if self._accept("["):
            return self._list(depth)
        if (text := self._quoted()) is not None:
            return text
        match = _BARE.match(self._text, self.position)
        if match is None:
            raise ValueError("no value")
        self.position = match.end()
        return json.loads(match[0])

    def skip(self) -> None:
        """Go on past space."""
        match = _SPACE.match(self._text, self.position)
        self.position = match.end() if match else self.position

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.skip()
        if self._accept("}"):
            return found
        while True:
            self.skip()
            key = self._key()
            self.skip()
            self._expect(":")
            found[key] = self.value(depth + 1)
            self.skip()
            if self._accept("}"):
                return found
            self._expect(",")

    def _list(self, depth: int) -> list[Any]:
        found: list[Any] = []
        self.skip()
        if self._accept("]"):
            return found
        while True:
            found.append(self.value(depth + 1))
            self.skip()
            if self._accept("]"):
                return found
            self._expect(",")

    def _key(self) -> str:
        if (text := self._quoted()) is not None:
            return text
        match = _KEY.match(self._text, self.position)
        if match is None:
            raise ValueError("no key")
        self.position = match.end()
        return match[0].strip()

    def _quoted(self) -> str | None:
        """A text in Gemma's quotes or JSON's, if one begins here."""
        for quote in QUOTES:
            if self._accept(quote):
                return self._up_to(quote)
        if not self._text.startswith('"', self.position):
            return None
        text, self.position = _JSON.raw_decode(self._text, self.position)
        return str(text)

    def _up_to(self, quote: str) -> str:
        end = self._text.find(quote, self.position)
        if end < 0:
            raise ValueError("a text without an end")
        found = self._text[self.position : end]
        self.position = end + len(quote)
        return found

    def _accept(self, text: str) -> bool:
        if not self._text.startswith(text, self.position):
            return False
        self.position += len(text)
        return True

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise ValueError(f"no {text}")
