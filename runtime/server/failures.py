"""Errors to HTTP: the one place where the tree of `runtime.errors` becomes a status, a body and headers."""

import http
from typing import NamedTuple

import msgspec
from tornado.web import HTTPError

from pagedc.runtime.errors import EngineClosedError, OverloadedError, PagedcError, RequestError

DRAIN_RETRY_AFTER = 5  # seconds, for another server to take this one's place
INTERNAL = "The server failed on this request; its log says why."


class ErrorInfo(msgspec.Struct):
    """What went wrong, in OpenAI's four fields."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The one error body."""

    error: ErrorInfo


class Failure(NamedTuple):
    """An error as it leaves the server."""

    status: int
    body: ErrorBody
    headers: dict[str, str]

    def encode(self) -> bytes:
        """The body as JSON."""
        return msgspec.json.encode(self.body)


def failure_of(error: BaseException) -> Failure:
    """What a client is told of an error: an unforeseen one says nothing of its cause."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPError):  # Tornado's own: 404, 405, bad arguments
        return status_failure(error.status_code)
    if not isinstance(error, PagedcError):
        return status_failure(500)
    status, kind = error.status, error.type
    if isinstance(error, EngineClosedError):
        headers["Retry-After"] = str(DRAIN_RETRY_AFTER)
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after)
        if status == 429:
            kind = "rate_limit_error"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    message = str(error) if status < 500 or isinstance(error, OverloadedError) or error.code else INTERNAL
    return Failure(status, ErrorBody(ErrorInfo(message, kind, error.param, error.code)), headers)


def status_failure(status: int, message: str | None = None, code: str | None = None) -> Failure:
    """A failure that is known by its status alone."""
    if message is None:
        message = _MESSAGES.get(status) or (
            INTERNAL if status >= 500 else f"{http.HTTPStatus(status).phrase}."
        )
    kind = RequestError.type if status < 500 else PagedcError.type
    return Failure(status, ErrorBody(ErrorInfo(message, kind, None, code or _CODES.get(status))), {})


_MESSAGES = {
    404: "There is no such route.",
    405: "This route does not take this method.",
    413: "The body is too large.",
    415: "Send the body as uncompressed 'Content-Type: application/json'.",
}
_CODES = {404: "unknown_url", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}
