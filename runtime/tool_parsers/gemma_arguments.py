"""Gemma's arguments as JSON while they are written: {key:<escape>text<escape>,other:3}."""

import json
import re

from pagedc.runtime.tool_parsers.arguments import held_back

QUOTES = ("<escape>", '<|"|>')
MAX_DEPTH = 64
MAX_BARE = 1024  # characters of a number or a key without quotes
_KEY = re.compile(r"[A-Za-z0-9_.$ -]+")
_BARE = re.compile(r"[^,\]}\s]+")
_SPACE = re.compile(r"\s+")
_IN_QUOTES = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)  # whole characters of a text in JSON's own quotes

Step = tuple[int, str]  # characters that are read and the JSON they make; 0 = more must come


class GemmaArguments:
    """A reader that stops anywhere. What is wrong within a value is seen at the end, by the JSON it makes."""

    def __init__(self) -> None:
        self._held = ""  # what is not read yet: shorter than a marker, or than MAX_BARE
        self._closing: list[str] = []  # the brackets that must come
        self._quote = ""  # of the text that we are in
        # What must come: "first" and "item" are keys or values, as the bracket around them says.
        self._expected = "value"
        self._is_key = False

    def feed(self, text: str) -> tuple[str, int]:
        """Raises ValueError where nothing that comes could make it arguments."""
        data, position, made = self._held + text, 0, []
        while position < len(data):
            size, piece = self._read_text(data, position) if self._quote else self._read(data, position)
            if not size:
                break
            position += size
            made.append(piece)
            if self._expected == "nothing":
                end = position - len(self._held)
                self._held = ""
                return "".join(made), end
        self._held = data[position:]
        if not self._quote and len(self._held) > MAX_BARE:
            raise ValueError("a number or a key of that length")
        return "".join(made), -1

    def finish(self) -> str | None:
        """They end with their last bracket."""
        return None

    def _read(self, data: str, position: int) -> Step:
        if (space := _SPACE.match(data, position)) is not None:
            return space.end() - position, ""
        character = data[position]
        if self._closing and character == self._closing[-1] and self._expected in ("first", "next"):
            self._closing.pop()
            return 1, self._after_value(character)
        if self._expected == "next":
            return 1, self._expect(character, ",", "item")
        if self._expected == "colon":
            return 1, self._expect(character, ":", "value")
        is_key = self._expected != "value" and self._closing[-1] == "}"
        return self._read_key(data, position) if is_key else self._read_value(data, position)

    def _expect(self, character: str, wanted: str, then: str) -> str:
        if character != wanted:
            raise ValueError(f"no {wanted}")
        self._expected = then
        return wanted + " "

    def _read_key(self, data: str, position: int) -> Step:
        if (opened := self._open_text(data, position, is_key=True)) is not None:
            return opened
        return self._read_bare(_KEY, data, position, is_key=True)

    def _read_value(self, data: str, position: int) -> Step:
        if data[position] in "{[":
            if len(self._closing) > MAX_DEPTH:
                raise ValueError("nested too deeply")
            self._closing.append("}" if data[position] == "{" else "]")
            self._expected = "first"
            return 1, data[position]
        if (opened := self._open_text(data, position, is_key=False)) is not None:
            return opened
        return self._read_bare(_BARE, data, position, is_key=False)

    def _read_bare(self, pattern: re.Pattern[str], data: str, position: int, *, is_key: bool) -> Step:
        match = pattern.match(data, position)
        if match is None:
            raise ValueError("no key" if is_key else "no value")
        if match.end() == len(data):
            return 0, ""
        size = match.end() - position
        if is_key:
            self._expected = "colon"
            return size, json.dumps(match[0].strip())
        json.loads(match[0])
        return size, self._after_value(match[0])

    def _open_text(self, data: str, position: int, *, is_key: bool) -> Step | None:
        for quote in (*QUOTES, '"'):
            if data.startswith(quote, position):
                self._quote, self._is_key = quote, is_key
                return len(quote), '"'
            if quote.startswith(data[position:]):
                return 0, ""
        return None

    def _read_text(self, data: str, position: int) -> Step:
        if self._quote == '"':
            match = _IN_QUOTES.match(data, position)
            end = match.end() if match else position
            text, is_whole = data[position:end], data.startswith('"', end)
        else:
            end = data.find(self._quote, position)
            is_whole = end >= 0
            if not is_whole:
                end = len(data) - held_back(data, position, self._quote)
            text = json.dumps(data[position:end], ensure_ascii=False)[1:-1]
        if not is_whole:
            return end - position, text
        size = end + len(self._quote) - position
        self._quote = ""
        if self._is_key:
            self._expected = "colon"
            return size, text + '"'
        return size, self._after_value(text + '"')

    def _after_value(self, made: str) -> str:
        self._expected = "next" if self._closing else "nothing"
        return made
