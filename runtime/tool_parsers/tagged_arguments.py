"""Arguments as Qwen's coders write them, tags a parameter, as JSON while they are written.

<parameter=city>
Rome
</parameter>
</function>

Types are not written: a value is the JSON that it is, unless that is a text or none. One that can be no JSON
any more goes out as it grows.
"""

import json
import re

from pagedc.runtime.tool_parsers.arguments import held_back

MAX_NAME = 256  # characters
_BEGIN, _END, _LAST = "<parameter=", "</parameter>", "</function>"
_LONGEST = 64  # characters in which a value shows that it can be no JSON
_SPACE = " \t\n\r"
_NUMBER = re.compile(r"-?\d*(?:\.\d*)?(?:[eE][+-]?\d*)?\s*")  # or the beginning of one
_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


class TaggedArguments:
    """A reader that stops anywhere."""

    def __init__(self) -> None:
        self._held = ""  # what is not read yet: shorter than a tag
        self._where = "between"  # parameters; or within a "name", an "open" value, a "text"
        self._is_first = True
        self._value: list[str] = []  # of the open value
        self._start = ""  # its first characters

    def feed(self, text: str) -> tuple[str, int]:
        """Raises ValueError for a name without an end."""
        before, data, position = len(self._held), self._held + text, 0
        made: list[str] = []
        while True:
            where = self._where
            position = getattr(self, f"_read_{where}")(data, position, made)
            if self._where == "behind":
                self._held = ""
                return "".join(made), position - before
            if self._where == where:
                self._held = data[position:]
                return "".join(made), -1

    def finish(self) -> str | None:
        """The last tag may be left out."""
        return ("{}" if self._is_first else "}") if self._where == "between" else None

    def _read_between(self, data: str, position: int, made: list[str]) -> int:
        begin, last = data.find(_BEGIN, position), data.find(_LAST, position)
        if begin >= 0 and not 0 <= last < begin:
            made.append("{" if self._is_first else ", ")
            self._where, self._is_first = "name", False
            return begin + len(_BEGIN)
        if last >= 0:
            made.append("{}" if self._is_first else "}")
            self._where = "behind"
            return last + len(_LAST)
        return len(data) - held_back(data, position, _BEGIN, _LAST)

    def _read_name(self, data: str, position: int, made: list[str]) -> int:
        end = data.find(">", position, position + MAX_NAME + 1)
        if end < 0:
            if len(data) - position > MAX_NAME:
                raise ValueError("a name of that length")
            return position
        made.append(json.dumps(data[position:end], ensure_ascii=False) + ": ")
        self._where, self._start = "open", ""
        self._value.clear()
        return end + 1

    def _read_open(self, data: str, position: int, made: list[str]) -> int:
        """A value that may be JSON still."""
        end = data.find(_END, position)
        is_whole = end >= 0
        if not is_whole:
            end = len(data) - held_back(data, position, "\n" + _END, _END)
        self._value.append(data[position:end])
        if len(self._start) < _LONGEST:
            self._start = (self._start + data[position:end]).lstrip(_SPACE)[:_LONGEST]
        if is_whole:
            value = "".join(self._value).removeprefix("\n").removesuffix("\n")
            made.append(json.dumps(value_of(value), ensure_ascii=False))
            self._where = "between"
            return end + len(_END)
        if not _may_be_json(self._start):
            shown = "".join(self._value).removeprefix("\n")
            made.append('"' + _escaped(shown))
            self._where = "text"
        return end

    def _read_text(self, data: str, position: int, made: list[str]) -> int:
        end = data.find(_END, position)
        if end >= 0:
            made.append(_escaped(data[position:end].removesuffix("\n")) + '"')
            self._where = "between"
            return end + len(_END)
        end = len(data) - held_back(data, position, "\n" + _END, _END)
        made.append(_escaped(data[position:end]))
        return end


def value_of(text: str) -> object:
    """JSON where it is JSON of another type than a text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value


def _may_be_json(start: str) -> bool:
    """Whether more could make it JSON that is no text; `start` has no space before it."""
    if not start or start[0] in "{[":
        return True
    word = start.rstrip(_SPACE)
    if any(each.startswith(word) for each in _WORDS):
        return word == start or word in _WORDS
    return _NUMBER.fullmatch(start) is not None


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
