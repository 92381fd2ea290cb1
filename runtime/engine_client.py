"""One process of an engine and the socket to it, from its parent's side."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable

import msgspec

from pagedc.runtime.engine_spawn import SpawnedEngine
from pagedc.runtime.errors import (
    EngineDeadError,
    EngineError,
    PackageError,
    PagedcError,
    RequestError,
    UsageError,
)
from pagedc.runtime.frames import FrameError, FrameReader, frame
from pagedc.runtime.messages import Failed, FromEngine, Ready, Start, ToEngine

EXIT_SECONDS = 2.0  # to leave by itself once its socket is closed
LAST_SECONDS = 1.0  # from the end of its socket to that of a process that dies, on a busy machine

_ERRORS: dict[str, type[PagedcError]] = {"PackageError": PackageError, "UsageError": UsageError}


class EngineClient:
    """Tells a process what to open; `connect` joins it to the running event loop."""

    def __init__(self, spawned: SpawnedEngine, start: Start) -> None:
        self._process, self._socket, self._spawned = spawned
        self._encoder = msgspec.msgpack.Encoder()
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[Ready] | None = None
        self._is_closing = False
        with contextlib.suppress(OSError):  # a process that died already: `ready` says how
            # Fits the socket's buffer: nobody reads yet.
            self._socket.sendall(frame(self._encoder.encode(start)))

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._spawned

    async def connect(self, take: Callable[[FromEngine], None], lost: Callable[[str], None]) -> None:
        """Call `take` with each message, and `lost` with the reason if the process dies after it was
        ready.
        """
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        self._transport, _ = await loop.create_unix_connection(
            lambda: _EngineProtocol(self, take, lost), sock=self._socket
        )

    async def ready(self) -> Ready:
        """Wait for the engine; raises why it cannot start."""
        assert self._ready is not None
        return await self._ready

    def send(self, message: ToEngine) -> None:
        """Never blocks. Raises RequestError for what cannot be encoded."""
        assert self._transport is not None
        try:
            data = frame(self._encoder.encode(message))
        except (FrameError, OverflowError, TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"the request cannot be sent to the engine: {error}") from None
        self._transport.write(data)

    def kill(self) -> None:
        """End a process that does not answer; `lost` hears of it."""
        self._process.kill()

    async def close(self) -> None:
        """Hang up and see the process gone, by force if need be. Safe to call twice."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()
        self._socket.close()
        try:
            await asyncio.to_thread(self._process.wait, EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def on_message(self, message: FromEngine, take: Callable[[FromEngine], None]) -> None:
        """The first message says how the start went; the others are `take`'s."""
        assert self._ready is not None
        if isinstance(message, Ready):
            self._settle(message)
        elif isinstance(message, Failed):
            self._settle(_ERRORS.get(message.error, EngineError)(message.message))
        else:
            take(message)

    def on_lost(self, reason: str, lost: Callable[[str], None]) -> None:
        """The socket closed, or what came through it made no sense."""
        assert self._ready is not None
        if not self._ready.done():
            self._settle(EngineDeadError(f"the engine's process died while starting ({reason})"))
        elif not self._ready.cancelled() and self._ready.exception() is None:
            lost(reason)

    def describe_exit(self) -> str:
        """How it ended; waits a moment for it, since its socket is closed, but not for one that was hung up
        on.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(0 if self._is_closing else LAST_SECONDS)
            return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return "its socket closed"

    def _settle(self, outcome: Ready | PagedcError) -> None:
        assert self._ready is not None
        if self._ready.done():
            return
        if isinstance(outcome, Ready):
            self._ready.set_result(outcome)
        else:
            self._ready.set_exception(outcome)
            self._ready.exception()  # it may be that nobody waits


class _EngineProtocol(asyncio.Protocol):
    def __init__(
        self, client: EngineClient, take: Callable[[FromEngine], None], lost: Callable[[str], None]
    ) -> None:
        self._client = client
        self._take = take
        self._lost = lost
        self._reader = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._transport: asyncio.BaseTransport | None = None
        self._reason: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for content in self._reader.feed(data):
                self._client.on_message(self._decoder.decode(content), self._take)
        except (FrameError, msgspec.MsgspecError) as error:
            self._reason = f"it sent what is no message: {error}"
            assert isinstance(self._transport, asyncio.Transport)
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._client.on_lost(self._reason or self._client.describe_exit(), self._lost)
