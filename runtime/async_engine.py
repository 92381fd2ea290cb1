"""The engine's process as seen from an asyncio program: start it, ask it, survive its death.

Thread safety: every method belongs to the event loop's thread, except `spawn`, which may be called before there is a loop.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from pagedc.runtime.config import EngineOptions
from pagedc.runtime.messages import EngineStats, Ready, TokenEvent
from pagedc.runtime.sampling_params import SamplingParams


class AsyncEngine:
    """Requests in, TokenEvents out; the process is restarted when it dies.

    >>> engine = AsyncEngine("smollm2-135m.pagedc")
    >>> engine.spawn()                       # optional: the child imports while the parent does
    >>> ready = await engine.start()         # raises PackageError when the package cannot be opened
    >>> async for event in engine.generate("r1", [1, 2, 3], SamplingParams(max_tokens=8)):
    ...     print(event.index, event.token_ids, event.finish_reason)
    >>> await engine.drain(timeout=30); await engine.close()
    """

    stats: EngineStats  # as of the last step; an idle engine's are as of its last step
    num_restarts: int

    def __init__(self, package: str | Path, options: EngineOptions | None = None) -> None:
        raise NotImplementedError

    def spawn(self) -> None:
        """Start the process without waiting for it; does nothing if it runs."""
        raise NotImplementedError

    async def start(self) -> Ready:
        """Wait until the engine takes requests; raises PackageError, UsageError or EngineError with its reason."""
        raise NotImplementedError

    @property
    def is_ready(self) -> bool:
        """Whether a request sent now would be taken at once: for `/ready`."""
        raise NotImplementedError

    @property
    def num_requests(self) -> int:
        """Requests that are open: waiting for the engine, waiting in it or running."""
        raise NotImplementedError

    def generate(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,  # smaller = sooner
        cache_salt: str = "",
    ) -> AsyncIterator[TokenEvent]:
        """Yield what each of the `params.n` sequences brings until all have a finish_reason.

        It is an async generator: closing it (`aclose()`, or cancelling its task) aborts the request. Waits while the
        engine restarts. Raises RequestError (the engine refused it: prompt too long, token id out of range, …),
        EngineDeadError (the process died meanwhile; another try will find a new one), OverloadedError (draining).
        """
        raise NotImplementedError

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Stop a request, or only its `index`-th sequence (say at a stop string); unknown ids are ignored.

        No event of an aborted sequence is delivered any more; the generator ends when no sequence is left.
        """
        raise NotImplementedError

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests (OverloadedError) and wait for the open ones; False if some are left after `timeout` s."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the process; open requests get EngineDeadError. Safe to call twice."""
        raise NotImplementedError
