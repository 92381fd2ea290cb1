"""Run one server from bind to exit: listen at once, become ready with the engine, drain on SIGTERM."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tornado.netutil import bind_sockets

from pagedc.runtime.errors import UsageError
from pagedc.runtime.server.app import BoundedServer
from pagedc.runtime.server.auth import ApiKeys
from pagedc.runtime.server.hosted_model import HostedModel
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.state import OpenModel, ServerState

if TYPE_CHECKING:
    from pagedc.runtime.server.tracing import Tracing

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # 128 + SIGINT, as shells count
OTHER_FILES = 128  # open files that are no connections
LAST_WORDS = 2.0  # seconds for streams to write why they end


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenOptions:
    """Where to listen and who may ask."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0 = any free one
    keys: ApiKeys = field(default_factory=lambda: ApiKeys([]))
    limits: Limits = field(default_factory=Limits)
    allow_origin: str = ""
    has_page: bool = True
    admin_keys: ApiKeys | None = None
    open_model: OpenModel | None = None
    otlp_endpoint: str = ""  # where spans go; "" = nowhere


OpenModels = Callable[[], Sequence[HostedModel]]


def run_server(open_models: OpenModels, options: ListenOptions, boot: dict[str, float] | None = None) -> int:
    """Serve until a signal; returns the exit code. `open_models` is called on the event loop.

    `boot` has the seconds of the phases before, by name. Raises UsageError when it cannot listen, and what
    kept an engine from starting.
    """
    return asyncio.run(_serve(open_models, options, boot or {}))


async def _serve(open_models: OpenModels, options: ListenOptions, boot: dict[str, float]) -> int:
    began = perf_counter()
    tracing = _open_tracing(options.otlp_endpoint)
    state = ServerState(
        open_models(),
        limits=options.limits,
        keys=options.keys,
        allow_origin=options.allow_origin,
        has_page=options.has_page,
        admin_keys=options.admin_keys,
        open_model=options.open_model,
        tracing=tracing,
    )
    signals = _Signals(asyncio.get_running_loop())
    _allow_open_files(options.limits.max_connections)
    server = BoundedServer.of(state)
    try:
        sockets = _bind(options)
        server.add_sockets(sockets)
        for url in _urls(sockets):
            logger.info("Listening on %s", url)
        starting = asyncio.ensure_future(_start(state.models))
        await signals.unless(starting)
        gc.freeze()  # what stays for good need not be visited again
        gc.enable()
        if starting.done():
            starting.result()
            for hosted in state.models:
                hosted.metrics.boot_seconds |= boot
            names = ", ".join(hosted.model.name for hosted in state.models)
            logger.info("%s is ready in %.2f s", names, sum(boot.values()) + perf_counter() - began)
        else:
            starting.cancel()
        await signals.wait()
        await _drain(state, signals)
        return INTERRUPTED if signals.is_interrupt else 0
    finally:
        server.stop()
        await asyncio.gather(*(hosted.close() for hosted in state.models))
        state.grammars.close()
        await state.wait_idle(LAST_WORDS)
        await server.close_all_connections()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _open_tracing(endpoint: str) -> "Tracing | None":
    if not endpoint:
        return None
    from pagedc.runtime.server.tracing import Tracing

    return Tracing(endpoint)


async def _start(models: Sequence[HostedModel]) -> None:
    await asyncio.gather(*(hosted.start() for hosted in models))


async def _drain(state: ServerState, signals: "_Signals") -> None:
    state.is_draining = True
    if signals.is_interrupt:
        return
    timeout = state.limits.drain_timeout
    logger.info("Draining: %d requests have up to %g s", state.num_http_requests, timeout)
    idle = asyncio.ensure_future(state.wait_idle(timeout))
    await signals.unless(idle, interrupt_only=True)
    if not idle.done():
        idle.cancel()
    elif not idle.result():
        logger.warning("%d requests did not end in time and are aborted", state.num_http_requests)


class _Signals:
    """SIGTERM asks to drain, SIGINT to stop, a second SIGINT to be gone at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_interrupt = False
        self._any = asyncio.Event()
        self._interrupt = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, self._any.set)
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self) -> None:
        if self.is_interrupt:
            os._exit(INTERRUPTED)
        self.is_interrupt = True
        self._any.set()
        self._interrupt.set()

    async def wait(self) -> None:
        """Until a signal came."""
        await self._any.wait()

    async def unless(self, future: "asyncio.Future[Any]", *, interrupt_only: bool = False) -> None:
        """Until a future is done or a signal came."""
        event = self._interrupt if interrupt_only else self._any
        waiting: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
        await asyncio.wait({future, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


def _allow_open_files(num_connections: int) -> None:
    """Raise the soft limit of open files to what the connections need; the hard one is the operator's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed:
            logger.warning(
                "%d open files are allowed; --max-connections %d needs %d", allowed, num_connections, needed
            )


def _bind(options: ListenOptions) -> list[socket.socket]:
    try:
        return bind_sockets(options.port, address=options.host, backlog=512)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no address"
        raise UsageError(f"cannot listen on {options.host}:{options.port}: {reason}") from None


def _urls(sockets: list[socket.socket]) -> list[str]:
    names = [sock.getsockname() for sock in sockets]
    return [
        f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}" for name in names
    ]
