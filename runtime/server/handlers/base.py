"""What every route does: check the key, bound the body, give errors one form, notice a client that leaves."""

import asyncio
import logging
import re
import secrets
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

import msgspec
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from pagedc.runtime.errors import PagedcError
from pagedc.runtime.server.auth import ApiKeys
from pagedc.runtime.server.failures import Failure, failure_of, status_failure
from pagedc.runtime.server.generation import Generation
from pagedc.runtime.server.json_body import decode_body
from pagedc.runtime.server.state import ServerState

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

T = TypeVar("T")

# Bytes of a refused body that are read and dropped: a client that writes first gets to read its error.
MAX_DISCARD = 64 << 20
CLIENT_CLOSED = 499  # nginx's number, for the log alone: nobody is left to read it


@stream_request_body
class BaseHandler(RequestHandler):
    """A route; the state of the server is handed in by the application."""

    state: ServerState
    allowed_methods: tuple[str, ...] = ("GET", "HEAD")
    generation: Generation | None = None  # once there is one
    is_traced: ClassVar[bool] = True
    needs_key: ClassVar[bool] = True  # False where orchestrators ask, who hold none, and for the page's files

    def initialize(self, state: ServerState) -> None:
        """Called by Tornado with what the route was registered with."""
        self.state = state
        self._body = bytearray()
        self._num_body_bytes = 0
        self._refused: Failure | None = None
        self._work: asyncio.Task[Any] | None = None
        given = self.request.headers.get("X-Request-Id", "")
        self.is_id_given = _REQUEST_ID.fullmatch(given) is not None
        # What is no such id is not repeated: not in a header, not in the log.
        self.request_id = given if self.is_id_given else "req-" + secrets.token_hex(12)

    def set_default_headers(self) -> None:
        """Say nothing of versions; allow another origin where the operator named one."""
        self.set_header("Server", "pagedc")
        state = self.application.settings["state"]
        if state.allow_origin:
            self.set_header("Access-Control-Allow-Origin", state.allow_origin)
            self.set_header("Vary", "Origin")

    @property
    def accepted_keys(self) -> ApiKeys:
        """The keys that open this route."""
        return self.state.keys

    def credentials(self) -> list[str]:
        """What the client says who it is."""
        return self.request.headers.get_list("Authorization")

    def compute_etag(self) -> str | None:
        """No answer is worth caching."""
        return None

    def prepare(self) -> None:
        """Refuse by the head alone what can be refused by it."""
        self.set_header("X-Request-Id", self.request_id)
        try:
            self.check_head()
        except (PagedcError, HTTPError) as error:
            self._refuse(failure_of(error))

    def check_head(self) -> None:
        """Raise for a wrong key, or a body that is compressed or too large."""
        if self.request.method == "OPTIONS" and self.state.allow_origin:
            return
        if self.needs_key:
            self.accepted_keys.check(self.credentials())
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise HTTPError(415)
        if self._content_length > self.state.limits.max_body_bytes:
            raise HTTPError(413)

    def data_received(self, chunk: bytes) -> None:
        """Collect the body up to its bound, then drop it up to another, then hang up."""
        self._num_body_bytes += len(chunk)
        if self._refused is not None:
            if self._num_body_bytes > MAX_DISCARD and not self._finished:
                self._send_refusal()
        elif self._num_body_bytes > self.state.limits.max_body_bytes:
            self._refuse(status_failure(413))
        else:
            self._body += chunk

    @property
    def _content_length(self) -> int:
        length = self.request.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit():
            return 0  # Tornado refuses it when it comes to the body
        return int(length[:20])

    def _refuse(self, failure: Failure) -> None:
        """Answer once the body is there, which is dropped; at once if it is too long to wait for."""
        self._refused = failure
        self._body.clear()
        if failure.status == 413:
            failure.headers["Connection"] = "close"
        if self._content_length > MAX_DISCARD or "Expect" in self.request.headers:
            self._send_refusal()
        else:  # instead of the route's own method
            setattr(self, (self.request.method or "get").lower(), self._send_refusal)

    def _send_refusal(self, *args: str) -> None:
        if self._refused is not None:
            self._finish_failure(self._refused)

    def options(self, *args: str) -> None:
        """A browser's question before it asks from another origin; 405 unless the operator named one."""
        if not self.state.allow_origin:
            raise HTTPError(405)
        self.set_header("Access-Control-Allow-Methods", ", ".join(self.allowed_methods))
        self.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type")
        self.set_status(204)

    def json_body(self, type_: type[T]) -> T:
        """The body as a struct; raises RequestError, or HTTPError for a body that is refused as a whole."""
        media_type = self.request.headers.get("Content-Type", "").split(";", 1)[0].strip().lower()
        if (
            media_type != "application/json"
        ):  # also what keeps web pages from posting here without being asked
            raise HTTPError(415)
        body, self._body = bytes(self._body), bytearray()
        return decode_body(body, type_)

    def send_json(self, value: Any) -> None:
        """Answer with a struct or plain data."""
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(value))

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the request's work; cancel it when the client leaves."""
        self._work = asyncio.ensure_future(work)
        try:
            await self._work
        except asyncio.CancelledError:
            if not self._work.cancelled() or not self.is_gone:
                raise
            self.set_status(CLIENT_CLOSED)
        except StreamClosedError:
            self.set_status(CLIENT_CLOSED)
        finally:
            self._work = None

    @property
    def log_fields(self) -> dict[str, str]:
        """What stands in every line of the log about this request."""
        return {"request_id": self.request_id}

    is_gone = False

    def on_connection_close(self) -> None:
        """The client left before its answer was whole."""
        super().on_connection_close()
        self.is_gone = True
        if self._work is not None:
            self._work.cancel()

    def on_finish(self) -> None:
        """The answer is out: its trace, where somebody wants traces."""
        tracing = self.state.tracing
        if tracing is not None and self.request.method == "POST" and self.is_traced:
            tracing.record(self.request, self.request_id, self.get_status(), self.generation)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tornado's way to say that something was raised: here errors get their body."""
        exc_info = kwargs.get("exc_info")
        self._finish_failure(failure_of(exc_info[1]) if exc_info else status_failure(status_code))

    def _finish_failure(self, failure: Failure) -> None:
        self.state.rejected[str(failure.status)] += 1
        self.set_status(failure.status)
        self.set_header("Content-Type", "application/json")
        for name, value in failure.headers.items():
            self.set_header(name, value)
        if failure.status == 405:
            self.set_header("Allow", ", ".join(self.allowed_methods))
        self.finish(failure.encode())

    def log_exception(self, *exc_info: Any) -> None:
        """Errors of clients are no news; ours are, with their trace in the log alone."""
        error = exc_info[1]
        if isinstance(error, HTTPError | PagedcError) and getattr(error, "status", 400) != 500:
            logger.debug("%s %s: %s", self.request.method, self.request.path, error, extra=self.log_fields)
        elif isinstance(error, PagedcError):
            logger.error("%s %s: %s", self.request.method, self.request.path, error, extra=self.log_fields)
        else:
            logger.error(
                "%s %s failed",
                self.request.method,
                self.request.path,
                exc_info=exc_info,
                extra=self.log_fields,
            )


class UnknownRouteHandler(BaseHandler):
    """Every path that is no route."""

    is_traced = False  # a span's name would be anybody's

    def check_head(self) -> None:
        """The key first: without one nobody learns which routes there are."""
        super().check_head()
        raise HTTPError(404)
