"""What all handlers share: the engine, the model, the bounds, and whether the server takes requests now."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pagedc.runtime.errors import OverloadedError
from pagedc.runtime.messages import EngineStats, Ready, TokenEvent
from pagedc.runtime.metrics import Metrics
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.server.auth import ApiKeys
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.served_model import ServedModel

RETRY_AFTER = 1  # seconds; a queue of short requests moves in less
DRAIN_RETRY_AFTER = 5


class Engine(Protocol):
    """What the server asks of `async_engine.AsyncEngine`."""

    stats: EngineStats
    num_restarts: int

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
    ) -> AsyncIterator[TokenEvent]: ...

    def abort(self, request_id: str, index: int | None = None) -> None: ...

    async def close(self) -> None: ...


class ServerState:
    """Shared by the handlers of one server; all methods belong to the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        model: ServedModel,
        *,
        limits: Limits,
        keys: ApiKeys,
        metrics: Metrics,
        allow_origin: str = "",
    ) -> None:
        self.engine = engine
        self.model = model
        self.limits = limits
        self.keys = keys
        self.metrics = metrics
        self.allow_origin = allow_origin
        self.is_draining = False
        self.max_model_len = model.max_model_len
        self._max_open = limits.max_waiting + limits.max_sequences
        self._num_open = 0  # sequences
        self._started: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._idle = asyncio.Event()
        self._idle.set()

    async def start_engine(self) -> Ready:
        """Wait for the engine; requests that came before go on. Raises what kept it from starting."""
        try:
            ready = await self.engine.start()
        except Exception as error:
            self._started.set_exception(error)
            self._started.exception()  # somebody may wait for it, or nobody
            raise
        self.max_model_len = min(self.max_model_len, ready.max_model_len)
        self._max_open = self.limits.max_waiting + ready.max_num_seqs
        self._started.set_result(ready)
        return ready

    @property
    def is_ready(self) -> bool:
        """Whether a request sent now would be served."""
        return self._started.done() and self.engine.is_ready and not self.is_draining

    async def wait_started(self) -> None:
        """Let a request that came during the start wait."""
        if not self._started.done():
            await asyncio.shield(self._started)

    @contextmanager
    def admit(self, num_sequences: int) -> Iterator[None]:
        """Hold room for a request, or raise OverloadedError: 503 while draining, 429 when too many wait."""
        if self.is_draining:
            raise OverloadedError("The server is shutting down.", retry_after=DRAIN_RETRY_AFTER)
        if self._num_open and self._num_open + num_sequences > self._max_open:
            raise OverloadedError(
                f"{self._num_open} sequences run or wait already; try again later.",
                retry_after=RETRY_AFTER,
                status=429,
            )
        self._num_open += num_sequences
        self.metrics.num_http_requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_open -= num_sequences
            self.metrics.num_http_requests -= 1
            if self.metrics.num_http_requests == 0:
                self._idle.set()

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no generation request is open; False if some still are after `timeout` seconds."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True
