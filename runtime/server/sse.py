"""Server-sent events: the bytes of a stream, and their way to a client that may read slowly or be gone."""

import asyncio
from typing import Any

import msgspec
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def sse_event(value: Any) -> bytes:
    """One event."""
    return b"data: " + _encode(value) + b"\n\n"


class ChunkTemplate:
    """Chunks that differ in one text only: everything around it is encoded once.

    >>> template = ChunkTemplate({"choices": [{"delta": {"content": ChunkTemplate.HOLE}}]})
    >>> template.fill("Paris")
    """

    HOLE = "\u0000pagedc:text\u0000"
    __slots__ = ("_after", "_before")

    def __init__(self, chunk: Any) -> None:
        before, hole, after = sse_event(chunk).partition(_encode(self.HOLE))
        if not hole:
            raise ValueError("the chunk has no hole for its text")
        self._before = before
        self._after = after

    def fill(self, text: str) -> bytes:
        """The event with this text."""
        return self._before + _encode(text) + self._after


class EventStream:
    """The response of one request as a stream of events; its head goes out with the first of them."""

    def __init__(self, handler: RequestHandler, write_timeout: float) -> None:
        self._handler = handler
        self._write_timeout = write_timeout
        self.is_started = False

    async def send(self, data: bytes) -> None:
        """Write, and wait only while the client has not read what the socket can hold.

        Raises StreamClosedError if the client is gone, or has read nothing for `write_timeout` seconds.
        """
        connection: Any = self._handler.request.connection
        if not self.is_started:
            self.is_started = True
            handler = self._handler
            handler.set_header("Content-Type", "text/event-stream; charset=utf-8")
            handler.set_header("Cache-Control", "no-cache")
            handler.set_header("X-Accel-Buffering", "no")  # nginx would hold tokens back
            connection.stream.set_nodelay(True)
            handler.write(data)
            future = handler.flush()
        else:
            # Past RequestHandler.flush, which takes longer than all else that is done for a token.
            future = connection.write(data)
        if connection.stream.writing():
            try:
                await asyncio.wait_for(asyncio.shield(future), self._write_timeout)
            except TimeoutError:
                connection.stream.close()
                raise StreamClosedError from None
