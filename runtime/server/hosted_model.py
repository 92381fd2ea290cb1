"""One model of the server: its engine, what the HTTP side knows of it, its room for requests, its sleep."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

from pagedc.runtime.errors import EngineClosedError, NotFoundError, OverloadedError
from pagedc.runtime.event_stream import Taker
from pagedc.runtime.messages import EngineStats, Ready, TokenEvent
from pagedc.runtime.metrics import Metrics
from pagedc.runtime.pooling import Pooling
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.served_model import ServedModel

RETRY_AFTER = 1  # seconds; a queue of short requests moves in less

ModelStatus = Literal["starting", "ready", "asleep", "leaving", "failed"]

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """What the server asks of `async_engine.AsyncEngine`."""

    stats: EngineStats
    num_restarts: int
    start_seconds: float

    @property
    def is_ready(self) -> bool: ...

    async def start(self) -> Ready: ...

    def generate(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        pooling: Pooling = "",
        take: Taker | None = None,
    ) -> AsyncIterator[TokenEvent]: ...

    def abort(self, request_id: str, index: int | None = None) -> None: ...

    def prepare_grammars(self) -> None: ...

    async def close(self, reason: str = ...) -> None: ...


class HostedModel:
    """A package under its names; all methods belong to the event loop's thread.

    With `idle_unload` its engine's process ends after so many seconds without a request, and the next request
    starts another: those that come meanwhile wait for the one start, as many as may wait for a busy engine.
    """

    def __init__(
        self,
        model: ServedModel,
        open_engine: Callable[[], Engine],  # called again after each sleep
        limits: Limits,
        *,
        engine: Engine | None = None,  # the first one, where its process was started already
        idle_unload: float | None = None,  # seconds
    ) -> None:
        self.model = model
        self.limits = limits
        self.metrics = Metrics(model.name)
        self.metrics.weights_bytes = model.weights_bytes
        self.max_model_len = model.max_model_len
        self.engine = engine or open_engine()
        self._open_engine = open_engine
        self._idle_unload = idle_unload
        self._is_leaving = False
        self._why_closed = ""
        self._max_open = limits.max_waiting + limits.max_sequences
        self._num_open = 0  # sequences
        self._starting: asyncio.Task[Ready] | None = None  # None while asleep
        self._needs_engine = False  # the one it has slept or failed
        self._falling_asleep: asyncio.Task[None] | None = None
        self._sleep_timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def status(self) -> ModelStatus:
        """Where it stands now."""
        if self._is_leaving:
            return "leaving"
        if self._starting is None:
            return "asleep"
        if not self._starting.done():
            return "starting"
        if self._starting.cancelled() or self._starting.exception() is not None:
            return "failed"
        return "ready" if self.engine.is_ready else "starting"

    @property
    def is_answering(self) -> bool:
        """Whether a request sent now would be served, if only after waking."""
        return self.status in ("ready", "asleep")

    async def start(self) -> Ready:
        """Wait for the engine, which is started if nobody did; raises what kept it from starting."""
        if self._starting is None or (self._starting.done() and self.status == "failed"):
            self._starting = asyncio.ensure_future(self._start())
            self._starting.add_done_callback(_retrieve)
        return await asyncio.shield(self._starting)

    async def _start(self) -> Ready:
        if self._falling_asleep is not None:
            await self._falling_asleep  # its memory is needed
            self._falling_asleep = None
        if self._needs_engine:
            self.engine = self._open_engine()
        self._needs_engine = True  # unless it starts
        ready = await self.engine.start()
        self._needs_engine = False
        self.max_model_len = min(self.model.max_model_len, ready.max_model_len)
        self._max_open = self.limits.max_waiting + ready.max_num_seqs
        seconds = {"engine": self.engine.start_seconds, "package": ready.load_seconds}
        self.metrics.boot_seconds |= seconds | ready.phases
        logger.info(
            "%s has an engine after %.2f s: %d blocks, %d sequences, context %d",
            self.model.name,
            self.engine.start_seconds,
            ready.num_blocks,
            ready.max_num_seqs,
            self.max_model_len,
        )
        self._arm_sleep()
        return ready

    async def wait_started(self) -> None:
        """Let a request wait for the start, or wake the engine."""
        if self._starting is None or not self._starting.done() or self.status == "failed":
            try:
                await self.start()
            except asyncio.CancelledError:
                if self._starting is not None and self._starting.cancelled():  # by `close`
                    raise EngineClosedError(self._why_closed) from None
                raise

    @contextmanager
    def admit(self, num_sequences: int) -> Iterator[None]:
        """Hold room for a request, or raise: OverloadedError (429) when too many wait."""
        if self._is_leaving:
            raise NotFoundError(
                f"The model '{self.model.name}' is being unloaded.", param="model", code="model_not_found"
            )
        if self._num_open and self._num_open + num_sequences > self._max_open:
            raise OverloadedError(
                f"{self._num_open} sequences run or wait already; try again later.",
                retry_after=RETRY_AFTER,
                status=429,
            )
        self._num_open += num_sequences
        self.metrics.num_http_requests += 1
        self._idle.clear()
        if self._sleep_timer is not None:
            self._sleep_timer.cancel()
        try:
            yield
        finally:
            self._num_open -= num_sequences
            self.metrics.num_http_requests -= 1
            if self.metrics.num_http_requests == 0:
                self._idle.set()
                self._arm_sleep()

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no generation request is open; False if some still are after `timeout` seconds."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def leave(self, timeout: float) -> None:
        """Refuse new requests, give those that run up to `timeout` seconds, and close."""
        self._is_leaving = True
        if not await self.wait_idle(timeout):
            logger.warning(
                "%s: %d requests did not end in time", self.model.name, self.metrics.num_http_requests
            )
        await self.close(f"The model '{self.model.name}' was unloaded before this request ended.")

    async def close(self, reason: str = "The server is shutting down.") -> None:
        """End the processes; open requests get an error with the reason. Safe to call twice."""
        self._is_leaving = True
        self._why_closed = reason
        if self._sleep_timer is not None:
            self._sleep_timer.cancel()
        if self._falling_asleep is not None:
            await self._falling_asleep
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
        await self.engine.close(reason)
        if self.model.chat_template is not None:
            self.model.chat_template.close()

    def _arm_sleep(self) -> None:
        if self._idle_unload is not None and not self._is_leaving and self._idle.is_set():
            if self._sleep_timer is not None:
                self._sleep_timer.cancel()
            loop = asyncio.get_running_loop()
            self._sleep_timer = loop.call_later(self._idle_unload, self._fall_asleep)

    def _fall_asleep(self) -> None:
        if self.status == "ready" and self._idle.is_set():
            logger.info("%s sleeps after %g s without a request", self.model.name, self._idle_unload)
            self._starting = None
            self._needs_engine = True
            self._falling_asleep = asyncio.ensure_future(self.engine.close())


def _retrieve(task: "asyncio.Task[Ready]") -> None:
    """Somebody may wait for the outcome, or nobody."""
    if not task.cancelled():
        task.exception()
