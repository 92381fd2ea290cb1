"""What an answer must look like, as one grammar: the text that `SamplingParams.grammar` holds.

>>> params = SamplingParams(grammar=json_schema({"type": "object", "required": ["city"], …}))
>>> params = SamplingParams(grammar=regex(r"\\d{4}-\\d{2}"))

JSON is written as `json.dumps` writes it, one space after each comma and colon: models know that form, and
all that is not a value is forced, so it costs no step of the model. (Free whitespace lets a small model write
nothing else until max_tokens.)
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "grammar", "lark"]
MAX_DEPTH = 64  # of a JSON schema


class GrammarSource(NamedTuple):
    """What a field of a request says of the answer's form."""

    param: str
    kind: GrammarKind
    text: str  # JSON where the kind is made of it
    before: str = ""  # rules of Lark, of which `before` may come first: reasoning


_JSON_OPTIONS = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
}
# What llguidance 1.9 acts on. Each other keyword is refused by name: an ignored one would let wrong answers
# pass.
_SCHEMAS = ("items", "additionalProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_VALUES = (
    "$ref", "const", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength",
    "maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern",
    "required", "type",
)  # fmt: skip
_ANNOTATIONS = (
    "$anchor", "$comment", "$id", "$schema", "default", "deprecated", "description", "discriminator",
    "example", "examples", "readOnly", "title", "writeOnly",
)  # fmt: skip
_KNOWN = frozenset((*_SCHEMAS, *_LISTS, *_MAPS, *_VALUES, *_ANNOTATIONS))


def json_schema(schema: dict[str, Any] | bool) -> str:
    """JSON of this schema; ValueError names a keyword that is not supported."""
    _check_schema(schema)
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    return _document({"json_schema": {**schema, "x-guidance": _JSON_OPTIONS}})


def json_object() -> str:
    """Any JSON object."""
    return json_schema({"type": "object"})


def regex(pattern: str) -> str:
    """A text that the whole pattern matches, in the syntax of Rust's `regex`: no look-around, no
    backreference.
    """
    return lark("start: TEXT\nTEXT: " + _regex_literal(pattern))


def choice(texts: Sequence[str]) -> str:
    """One of these texts."""
    if not texts or not all(texts):
        raise ValueError("a choice needs at least one text, and none may be empty")
    return lark("start: " + " | ".join(literal(text) for text in dict.fromkeys(texts)))


def grammar(text: str) -> str:
    """A context-free grammar, in Lark's syntax or GBNF."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return lark(any_to_lark(text))
    except Exception as error:  # whatever the text brings about
        raise ValueError(f"it is no grammar: {' '.join(str(error).split())[:200]}") from None


def lark(text: str) -> str:
    """A grammar in llguidance's dialect of Lark, as it is."""
    return _document({"lark_grammar": text})


def make_grammar(kind: GrammarKind, text: str, before: str = "") -> str:
    """Of what came as text: JSON where the kind is made of it. Raises ValueError."""
    made = _make(kind, text)
    if not before:
        return made
    (answer,) = json.loads(made)["grammars"]
    first = {"lark_grammar": f"start: before @answer\n{before}"}
    return json.dumps({"grammars": [first, {**answer, "name": "answer"}]}, ensure_ascii=False)


def reasoning_rules(begin: str, end: str, *, is_open: bool) -> str:
    """Rules for `GrammarSource.before`: reasoning up to `end`, or none unless the prompt has begun it.

    `begin` and `end` are Lark: a literal, or a control token.
    """
    if end.startswith("<["):
        body = f"before_body: BEFORE_TEXT {end} BEFORE_SPACE\nBEFORE_TEXT: /(.|\\n)*/\n"
    else:
        words = re.escape(json.loads(end)).replace("/", "\\/")
        body = f"before_body: before_text BEFORE_SPACE\nbefore_text[lazy]: /(.|\\n)*{words}/\n"
    space = "BEFORE_SPACE: /[ \\n]{0,4}/\n"
    return f"before: {'before_body' if is_open else f'({begin} before_body)?'}\n{body}{space}"


def _make(kind: GrammarKind, text: str) -> str:
    if kind == "json_schema":
        return json_schema(json.loads(text))
    if kind == "json_object":
        return json_object()
    if kind == "choice":
        return choice(json.loads(text))
    return {"regex": regex, "grammar": grammar, "lark": lark}[kind](text)


def literal(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def inline_schema(schema: dict[str, Any]) -> str:
    """A JSON schema inside a Lark grammar; ValueError names a keyword that is not supported."""
    _check_schema(schema)
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, ensure_ascii=False)


def _document(grammar: dict[str, Any]) -> str:
    return json.dumps({"grammars": [grammar]}, ensure_ascii=False)


def _regex_literal(pattern: str) -> str:
    """Between slashes, where a slash and a line's end must be escaped."""
    pieces, is_escaped = [], False
    for character in pattern:
        if character in "/\n\r":
            pieces.append(("" if is_escaped else "\\") + {"/": "/", "\n": "n", "\r": "r"}[character])
        else:
            pieces.append(character)
        is_escaped = character == "\\" and not is_escaped
    return "/" + "".join(pieces) + "/"


def _check_schema(schema: Any) -> None:
    """Raise ValueError for what is no schema, or holds a keyword that would not be acted upon."""
    stack: list[tuple[Any, int]] = [(schema, 0)]
    while stack:
        each, depth = stack.pop()
        if isinstance(each, bool):
            continue
        if not isinstance(each, dict):
            raise ValueError(f"a schema is an object, not {json.dumps(each)[:100]}")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        for name, value in each.items():
            if name not in _KNOWN and (name == "x-guidance" or not name.startswith("x-")):
                raise ValueError(f"the keyword {json.dumps(name[:100])} is not supported")
            if name in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
                raise ValueError(f"{name} is a boolean, as in draft 4: give the number itself")
            stack += [(inner, depth + 1) for inner in _inner_schemas(name, value)]


def _inner_schemas(name: str, value: Any) -> Iterator[Any]:
    if name in _SCHEMAS:
        yield value
    elif name in _LISTS:
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list of schemas")
        yield from value
    elif name in _MAPS:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not an object of schemas")
        yield from value.values()
