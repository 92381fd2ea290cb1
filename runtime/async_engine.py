"""The engine's process as seen from an asyncio program: start it, ask it, survive its death.

Thread safety: every method belongs to the event loop's thread, except `spawn`, which may be called before
there is a loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from pagedc.runtime.config import EngineOptions
from pagedc.runtime.engine_client import EngineClient
from pagedc.runtime.engine_spawn import ENGINE_COMMAND, SpawnedEngine, spawn_engine
from pagedc.runtime.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineError,
    OverloadedError,
    PagedcError,
    RequestError,
)
from pagedc.runtime.event_stream import EventStream, Taker
from pagedc.runtime.messages import (
    Abort,
    AddRequest,
    EngineStats,
    FromEngine,
    Outputs,
    PrepareGrammars,
    Ready,
    Start,
    TokenEvent,
)
from pagedc.runtime.pooling import Pooling
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.step_watch import StepWatch

# Seconds: the first restart is immediate, each further one of an engine that does not stay alive waits
# longer.
FIRST_BACKOFF, MAX_BACKOFF = 0.25, 30.0
HEALTHY_AFTER = 30.0  # an engine that lived this long begins anew

logger = logging.getLogger(__name__)


class AsyncEngine:
    """Requests in, TokenEvents out; the process is restarted when it dies.

    >>> engine = AsyncEngine("smollm2-135m.pagedc")
    >>> engine.spawn()                       # optional: the child imports while the parent does
    >>> ready = await engine.start()         # raises PackageError when the package cannot be opened
    >>> async for event in engine.generate("r1", [1, 2, 3], SamplingParams(max_tokens=8)):
    ...     print(event.index, event.token_ids, event.finish_reason)
    >>> await engine.drain(timeout=30); await engine.close()
    """

    def __init__(
        self,
        package: str | Path,
        options: EngineOptions | None = None,
        *,
        step_timeout: float | None = None,  # seconds without a word from a busy engine until it is killed
        command: Sequence[str] = ENGINE_COMMAND,  # the engine's process; the number of its socket is appended
        spawned: SpawnedEngine | None = None,  # the first process, where it was started already
    ) -> None:
        self.stats = EngineStats()  # as of the last step
        self.num_restarts = 0
        self.start_seconds = 0.0  # from the start of the process until it took requests, the last time
        self._backoff = 0.0  # seconds before the next restart
        self._start_message = Start(str(Path(package).absolute()), options or EngineOptions())
        self._command = command
        self._watch = StepWatch(step_timeout, lambda: bool(self._streams), self._kill)
        self._client = None if spawned is None else EngineClient(spawned, self._start_message)
        self._dead: EngineClient | None = None  # its predecessor, until it is buried
        self._ready: asyncio.Future[Ready] | None = None  # of the process that runs or is being started
        self._streams: dict[str, EventStream] = {}  # requests that the process has been sent
        self._num_waiting = 0  # requests that wait for a process
        self._restart: asyncio.Task[None] | None = None
        self._is_draining = self._is_closing = False
        self._why_closed = ""
        self._idle = asyncio.Event()
        self._idle.set()

    def spawn(self) -> None:
        """Start the process without waiting for it; does nothing if it runs."""
        if self._client is None:
            spawned = spawn_engine(Path(self._start_message.package), self._command)
            self._client = EngineClient(spawned, self._start_message)

    async def start(self) -> Ready:
        """Wait until the engine takes requests; raises PackageError, UsageError or EngineError with its
        reason.
        """
        if self._is_closing:
            raise EngineClosedError(self._why_closed)
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
            await self._boot()
        return await self._wait_ready()

    @property
    def is_ready(self) -> bool:
        """Whether a request sent now would be taken at once: for `/ready`."""
        return (
            not (self._is_draining or self._is_closing)
            and self._ready is not None
            and self._ready.done()
            and self._ready.exception() is None
        )

    @property
    def num_requests(self) -> int:
        """Requests that are open: waiting for the engine, waiting in it or running."""
        return len(self._streams) + self._num_waiting

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,  # smaller = sooner
        cache_salt: str = "",
        pooling: Pooling = "",
        take: Taker | None = None,
    ) -> AsyncIterator[TokenEvent]:
        """Yield what each of the `params.n` sequences brings until all have a finish_reason, but for what
        `take` takes.

        It is an async generator: closing it (`aclose()`, or cancelling its task) aborts the request. Waits
        while the engine restarts. Raises RequestError (the engine refused it: prompt too long, token id out
        of range, …), EngineDeadError (the process died meanwhile; another try will find a new one),
        OverloadedError (draining).
        """
        if self._is_draining:
            raise OverloadedError("the server is shutting down: try another one", retry_after=5)
        self._num_waiting += 1
        self._idle.clear()
        try:
            await self._wait_ready()
        finally:
            self._num_waiting -= 1
            self._note_idle()
        if request_id in self._streams:
            raise RequestError(f"request_id {request_id} is in use")
        message = AddRequest(request_id, list(prompt_token_ids), params, priority, cache_salt, pooling)
        self._watch.begin()
        self._send(message)  # nothing is awaited between here and the stream's registration
        stream = self._streams[request_id] = EventStream(params.n, take)
        self._idle.clear()
        try:
            while not stream.is_finished or stream.has_news:
                event = await stream.next()
                if event is not None:
                    yield event
        finally:
            if self._streams.get(request_id) is stream:
                del self._streams[request_id]
                if not stream.is_finished:
                    self._send(Abort(request_id))
            self._note_idle()

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Stop a request, or only its `index`-th sequence (say at a stop string); unknown ids are ignored.

        No event of an aborted sequence is delivered any more; the generator ends when no sequence is left.
        """
        stream = self._streams.get(request_id)
        if stream is None:
            return
        indexes = stream.drop(index)
        for each in indexes:
            self._send(Abort(request_id, each))

    def prepare_grammars(self) -> None:
        """Say that a request with a grammar is about to come: what an engine needs for the first one takes it
        0.17 s to read, and meanwhile the grammar is checked.
        """
        if self.is_ready:
            self._send(PrepareGrammars())

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests (OverloadedError) and wait for the open ones; False if some are left after
        `timeout` seconds.
        """
        self._is_draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def close(self, reason: str = "the engine was closed") -> None:
        """End the process; open requests get EngineClosedError with the reason. Safe to call twice."""
        self._is_closing = True
        self._watch.end()
        if self._restart is not None:
            self._restart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restart
            self._restart = None
        self._why_closed = reason
        self._fail_all(EngineClosedError(reason))
        for client in (self._dead, self._client):
            if client is not None:
                await client.close()
        self._dead = self._client = None

    async def _boot(self) -> None:
        """Start a process and see it ready; on failure `_ready` holds the reason."""
        assert self._ready is not None
        ready, client = self._ready, None
        try:
            self.spawn()
            client = self._client
            assert client is not None
            await client.connect(self._take, self._lost)
            ready.set_result(await client.ready())
            self.start_seconds = client.age
        except PagedcError as error:
            self._client = None
            if client is not None:
                await client.close()
            ready.set_exception(error)
            ready.exception()  # it may be that nobody waits

    async def _wait_ready(self) -> Ready:
        if self._ready is None:
            raise EngineDeadError("the engine was not started")
        try:
            return await asyncio.shield(self._ready)
        except asyncio.CancelledError:
            if self._is_closing and self._ready.cancelled():
                raise EngineClosedError(self._why_closed) from None
            raise

    def _take(self, message: FromEngine) -> None:
        if not isinstance(message, Outputs):
            return
        self.stats = message.stats
        self._watch.hear()
        for event in message.events:
            stream = self._streams.get(event.request_id)
            if stream is not None:
                stream.put(event)
        for error in message.errors:
            stream = self._streams.pop(error.request_id, None)
            if stream is not None:
                stream.fail(RequestError(error.message, param=error.param, code=error.code))

    def _lost(self, reason: str) -> None:
        """The process of a running engine died."""
        if self._is_closing:
            return
        logger.error("the engine died (%s); restarting it", reason)
        self.stats = EngineStats()
        self._fail_all(
            EngineDeadError(f"the engine died ({reason}) and is being restarted; send the request again")
        )
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        self._dead, self._client = self._client, None
        assert self._dead is not None
        self._restart = loop.create_task(self._start_again(self._dead))

    async def _start_again(self, dead: EngineClient) -> None:
        await dead.close()
        healthy = dead.age > HEALTHY_AFTER or self.num_restarts == 0
        self._backoff = 0.0 if healthy else min(max(2 * self._backoff, FIRST_BACKOFF), MAX_BACKOFF)
        while True:
            await asyncio.sleep(self._backoff)
            self.num_restarts += 1
            await self._boot()
            assert self._ready is not None
            error = self._ready.exception()
            if error is None:
                return
            self._backoff = min(max(2 * self._backoff, FIRST_BACKOFF), MAX_BACKOFF)
            logger.error("the engine does not start (%s); trying again in %.2f s", error, self._backoff)
            self._ready = asyncio.get_running_loop().create_future()

    def _kill(self) -> None:
        if self._client is not None:
            self._client.kill()

    def _fail_all(self, error: EngineError) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(error)
        if self._is_closing and self._ready is not None and not self._ready.done():
            self._ready.cancel()

    def _send(self, message: AddRequest | Abort | PrepareGrammars) -> None:
        if self._client is not None:
            self._client.send(message)

    def _note_idle(self) -> None:
        if self.num_requests == 0:
            self._idle.set()
