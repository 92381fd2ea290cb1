"""Bytes of a request to a struct, with one clear error for whatever is wrong with them."""

import json
import re
from typing import Any, TypeVar

import msgspec

from pagedc.runtime.errors import RequestError

T = TypeVar("T")

_PATH = re.compile(r" - at `(?:key` in `)?\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>.*?)`", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>.*?)`")
MAX_QUOTED = 100  # characters of a client's own words in an error


def decode_body(body: bytes, type_: type[T]) -> T:
    """Read strict JSON: no NaN, no repeated keys, no lone surrogates, no field unknown to `type_`.

    Raises RequestError that names the field.
    """
    try:
        value = msgspec.json.decode(body, type=type_)
        if body.count(b":") > 1:
            json.loads(body, object_pairs_hook=_refuse_duplicates)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error)) from None
    except RecursionError:
        raise RequestError("The body is nested too deeply.", code="invalid_json") from None
    except UnicodeError:
        raise RequestError("The body is not valid UTF-8.", code="invalid_json") from None
    except (msgspec.DecodeError, ValueError) as error:
        detail = "" if body else ": it is empty"
        position = re.search(r"\(byte \d+\)", str(error))
        detail += f" {position[0]}" if position else ""
        raise RequestError(f"The body is not valid JSON{detail}.", code="invalid_json") from None
    return value


def quoted(text: str) -> str:
    """A client's own words, short enough for an error message and on one line."""
    short = text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"
    return "'" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in short) + "'"


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise RequestError(
                f"Parameter {quoted(key)} stands twice.", param=key[:MAX_QUOTED], code="duplicate_parameter"
            )
        seen.add(key)


def _validation_error(message: str) -> RequestError:
    place = _PATH.search(message)
    path = place["path"] if place else ""
    text = message[: place.start()] if place else message
    if match := _UNKNOWN.match(text):
        name = _join(path, match["field"])
        return RequestError(f"Unknown parameter: {quoted(name)}.", param=name, code="unknown_parameter")
    if match := _MISSING.match(text):
        name = _join(path, match["field"])
        return RequestError(
            f"Missing required parameter: {quoted(name)}.", param=name, code="missing_required_parameter"
        )
    if not path:
        return RequestError(f"The body is wrong: {text[:1].lower()}{text[1:]}.", code="invalid_type")
    return RequestError(
        f"Invalid value for {quoted(path)}: {text[:1].lower()}{text[1:]}.", param=path, code="invalid_type"
    )


def _join(path: str, field: str) -> str:
    return f"{path}.{field}"[-MAX_QUOTED:] if path else field[:MAX_QUOTED]
