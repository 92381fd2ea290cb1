"""The routes, and the HTTP server around them with its bounds on connections."""

import asyncio
import logging
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from pagedc.runtime.server.failures import status_failure
from pagedc.runtime.server.handlers.admin import AdminModelHandler, AdminModelsHandler
from pagedc.runtime.server.handlers.base import UnknownRouteHandler
from pagedc.runtime.server.handlers.embeddings import EmbeddingsHandler
from pagedc.runtime.server.handlers.generate import ChatCompletionsHandler, CompletionsHandler
from pagedc.runtime.server.handlers.items import CountTokensHandler, MessagesHandler, ResponsesHandler
from pagedc.runtime.server.handlers.status import (
    HealthHandler,
    MetricsHandler,
    ModelHandler,
    ModelsHandler,
    OpenApiHandler,
    ReadyHandler,
    VersionHandler,
)
from pagedc.runtime.server.handlers.tokens import DetokenizeHandler, TokenizeHandler
from pagedc.runtime.server.handlers.web import PageHandler, ReportHandler, ReportLinkHandler, StatsHandler
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.state import ServerState

access_logger = logging.getLogger("pagedc.access")

# Bytes; `BaseHandler` bounds bodies itself, so that an error can be answered in the one form.
_NO_LIMIT = 1 << 62
# All that Tornado says to a malformed head.
_BARE_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"


def make_app(state: ServerState) -> Application:
    """Every route of the server."""
    shared = {"state": state}
    routes: list[tuple[str, type[RequestHandler]]] = [
        (r"/v1/chat/completions", ChatCompletionsHandler),
        (r"/v1/completions", CompletionsHandler),
        (r"/v1/embeddings", EmbeddingsHandler),
        (r"/v1/responses", ResponsesHandler),
        (r"/v1/messages", MessagesHandler),
        (r"/v1/messages/count_tokens", CountTokensHandler),
        (r"/v1/models", ModelsHandler),
        (r"/v1/models/(.+)", ModelHandler),
        (r"/tokenize", TokenizeHandler),
        (r"/detokenize", DetokenizeHandler),
        (r"/health", HealthHandler),
        (r"/ready", ReadyHandler),
        (r"/metrics", MetricsHandler),
        (r"/version", VersionHandler),
        (r"/openapi.json", OpenApiHandler),
    ]
    if state.has_page:
        routes += [
            (r"/", PageHandler),
            (r"/web/stats", StatsHandler),
            (r"/web/report", ReportLinkHandler),
            (r"/web/report/([0-9]{1,12})/([0-9a-f]{64})/(fp_[0-9a-f]{12})", ReportHandler),
            (r"/web/([a-z]{1,20}\.[a-z]{1,5})", PageHandler),
        ]
    if not state.admin_keys.is_open:
        routes += [
            (r"/admin/models", AdminModelsHandler),
            (r"/admin/models/(.+)", AdminModelHandler),
        ]
    return Application(
        [(pattern, handler, shared) for pattern, handler in routes],
        default_handler_class=UnknownRouteHandler,
        default_handler_args=shared,
        log_function=_log_request,
        state=state,
    )


class BoundedServer(HTTPServer):
    """An HTTPServer with a bound on connections, that answers a malformed head in the one form."""

    state: ServerState

    @classmethod
    def of(cls, state: ServerState) -> "BoundedServer":
        """A server of these routes; add sockets to it."""
        limits: Limits = state.limits
        server = cls(
            make_app(state),
            max_header_size=limits.max_header_bytes,
            max_body_size=_NO_LIMIT,
            max_buffer_size=1 << 20,  # bytes read ahead of a handler
            idle_connection_timeout=limits.keep_alive_timeout,
            body_timeout=limits.body_timeout,
        )
        server.state = state
        return server

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Take a connection, or answer 503 and hang up."""
        if self.state.num_connections >= self.state.limits.max_connections:
            self.state.rejected["503"] += 1
            stream.io_loop.add_callback(_hang_up, stream, _TOO_MANY)
            return
        self.state.num_connections += 1
        plain_write = stream.write

        def write(data: bytes | memoryview) -> "asyncio.Future[None]":
            return plain_write(_MALFORMED if data == _BARE_400 else data)

        stream.write = write  # type: ignore[method-assign]
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """A connection has ended."""
        self.state.num_connections -= 1
        super().on_close(server_conn)


async def _hang_up(stream: IOStream, answer: bytes) -> None:
    try:
        await stream.write(answer)
    except Exception:
        access_logger.debug("a connection beyond the limit was gone before its answer")
    finally:
        stream.close()


def _raw_answer(status_line: str, status: int, message: str, code: str, headers: str = "") -> bytes:
    body = status_failure(status, message, code).encode()
    head = (
        f"HTTP/1.1 {status_line}\r\nServer: pagedc\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + body


_MALFORMED = _raw_answer("400 Bad Request", 400, "The request is malformed HTTP.", "malformed_http")
_TOO_MANY = _raw_answer(
    "503 Service Unavailable", 503, "Too many connections are open.", "overloaded", "Retry-After: 1\r\n"
)


def _log_request(handler: RequestHandler) -> None:
    request = handler.request
    access_logger.info(
        "%s %s %d %.1f ms",
        request.method,
        _printable(request.path),
        handler.get_status(),
        request.request_time() * 1e3,
        extra=getattr(handler, "log_fields", None),
    )


def _printable(path: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in path[:200])
