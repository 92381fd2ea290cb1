"""The two files of a batch, in OpenAI's form: requests, a JSON object a line, and what became of each.

{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {…}}
{"id": "batch_req_…", "custom_id": "a", "response": {"status_code": 200, "request_id": "…", "body": {…}},
 "error": null}
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from pagedc.runtime.errors import RequestError, UsageError
from pagedc.runtime.manifest import BROKEN_JSON
from pagedc.runtime.server.json_body import decode_body, quoted

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_LINE_BYTES = 8 << 20
MAX_ID_LEN = 512  # characters


class BatchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One line of the input."""

    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


class InputLine(NamedTuple):
    """A line, read: a request, or why it is none."""

    number: int
    request: BatchRequest | None
    error: str = ""


class _OutputLine(msgspec.Struct):
    """What is looked at of a line that an earlier run wrote."""

    custom_id: str | None
    response: dict[str, Any] | None = None


def read_lines(path: Path) -> Iterator[InputLine]:
    """Every line that is not blank; raises UsageError if there is no such file."""
    seen: set[str] = set()
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        for number, data in enumerate(_lines(file), 1):
            if data.strip():
                yield _read_line(number, data, seen)


def count_lines(path: Path) -> int:
    """Lines that `read_lines` gives."""
    return sum(1 for _ in read_lines(path))


def take_up(path: Path) -> set[str]:
    """Ids of the requests that an earlier run has answered; what it failed at is taken out of the file.

    Raises UsageError for a file that is none of a batch's, and for one that cannot be written again.
    """
    try:
        return _take_up(path) if path.exists() else set()
    except OSError as error:
        raise UsageError(f"{path}: cannot be taken up: {error.strerror}") from None


def _take_up(path: Path) -> set[str]:
    answered: set[str] = set()
    kept: list[bytes] = []
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.endswith(b"\n"):
                break  # cut short when that run ended
            try:
                line = msgspec.json.decode(data, type=_OutputLine)
            except BROKEN_JSON:
                raise UsageError(
                    f"{path}, line {number}: no line of a batch's output; name another file"
                ) from None
            if line.custom_id is not None and _is_final(line.response):
                answered.add(line.custom_id)
                kept.append(data)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(b"".join(kept))
    os.replace(temporary, path)
    return answered


def answer_line(custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """The output's line of a request that was answered, with whatever status."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _line(custom_id, response, None)


def error_line(custom_id: str | None, code: str, message: str) -> bytes:
    """The output's line of one that could not be sent."""
    return _line(custom_id, None, {"code": code, "message": message})


def _line(custom_id: str | None, response: Any, error: Any) -> bytes:
    value = {"id": "batch_req_" + secrets.token_hex(12), "custom_id": custom_id}
    return msgspec.json.encode({**value, "response": response, "error": error}) + b"\n"


def _is_final(response: dict[str, Any] | None) -> bool:
    """Whether asking again would bring nothing else."""
    status = response.get("status_code") if response is not None else None
    return isinstance(status, int) and status < 500 and status != 429


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, one that is too long cut: it cannot be read then, and says so."""
    while data := file.readline(MAX_LINE_BYTES):
        rest = data
        while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        yield data


def _read_line(number: int, data: bytes, seen: set[str]) -> InputLine:
    try:
        request = decode_body(data.strip(), BatchRequest)
    except RequestError as error:
        return InputLine(number, None, str(error))
    wrong = _what_is_wrong(request, seen)
    seen.add(request.custom_id)
    return InputLine(number, None, wrong) if wrong else InputLine(number, request)


def _what_is_wrong(request: BatchRequest, seen: set[str]) -> str:
    if not 0 < len(request.custom_id) <= MAX_ID_LEN:
        return f"custom_id has {len(request.custom_id)} characters, not 1 to {MAX_ID_LEN}"
    if request.custom_id in seen:
        return f"custom_id {quoted(request.custom_id)} stands twice"
    if request.method != "POST":
        return f"method is {quoted(request.method)}, not 'POST'"
    if request.url not in URLS:
        return f"url is {quoted(request.url)}, none of {', '.join(URLS)}"
    if request.body.get("stream"):
        return "body.stream is true: an answer of a batch is one line"
    return ""
