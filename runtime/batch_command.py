"""`pagedc batch`: every line of a file through a package, or through a server that runs already.

A package is served on a port of this machine with a key that nobody else knows, so a line gets the checks,
the errors and the answer that a request gets.
"""

import argparse
import asyncio
import contextlib
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tornado.httpclient import AsyncHTTPClient, HTTPError
from tornado.netutil import bind_sockets

from pagedc.runtime.batch_files import (
    BatchRequest,
    InputLine,
    answer_line,
    count_lines,
    error_line,
    read_lines,
    take_up,
)
from pagedc.runtime.errors import OutputError, UsageError

TIMEOUT = 24 * 3600.0  # seconds of one request
RETRIES = 5  # of a request that found no room
REMOTE_REQUESTS = 32  # at once, to a server whose size is not known


class Endpoint(NamedTuple):
    """Where requests go."""

    url: str
    key: str | None
    num_requests: int  # at once


def run_batch(options: argparse.Namespace) -> int:
    """Answer every line; returns 0, or 1 if one of them failed."""
    if options.output.resolve() == options.input.resolve():
        raise UsageError(f"{options.output} is the input: name another file")
    if options.output.exists() and not options.output.is_file():
        raise UsageError(f"{options.output} is no file")
    num_lines = count_lines(options.input)
    done = take_up(options.output)
    return asyncio.run(_run(options, num_lines, done))


async def _run(options: argparse.Namespace, num_lines: int, done: set[str]) -> int:
    logging.getLogger("tornado").addHandler(logging.NullHandler())  # of lost connections the lines tell
    AsyncHTTPClient.configure(None, max_clients=1024, defaults={"request_timeout": TIMEOUT})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    async with _endpoint(options) as endpoint:
        with (
            _opened(options.output) as output,
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ):
            task = progress.add_task("requests", total=num_lines)
            batch = _Batch(endpoint, output, lambda: progress.advance(task))
            try:
                await batch.answer_all(options.input, done)
            except* OSError as group:
                why = next(error for error in group.exceptions if isinstance(error, OSError)).strerror
                raise OutputError(
                    f"{options.output}: {why}; {batch.num_answered} answers are in it, and the same command "
                    "goes on behind them"
                ) from None
    print(
        f"{batch.num_answered} answered, {batch.num_failed} failed, {batch.num_skipped} were there already: "
        f"{options.output}",
        file=sys.stderr,
    )
    return 1 if batch.num_failed else 0


def _opened(path: Path) -> FileIO:
    try:
        return FileIO(path, "ab")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None


class _Batch:
    """Lines on their way; what comes back is written at once, in the order of its coming."""

    def __init__(self, endpoint: Endpoint, output: FileIO, advance: Callable[[], None]) -> None:
        self.num_answered = self.num_failed = self.num_skipped = 0
        self._endpoint = endpoint
        self._output = output
        self._advance = advance
        self._client = AsyncHTTPClient()

    async def answer_all(self, path: Path, done: set[str]) -> None:
        """Keep as many requests open as the endpoint runs at once."""
        room = asyncio.Semaphore(self._endpoint.num_requests)
        async with asyncio.TaskGroup() as tasks:
            for line in read_lines(path):
                if line.request is not None and line.request.custom_id in done:
                    self.num_skipped += 1
                    self._advance()
                    continue
                await room.acquire()
                task = tasks.create_task(self._answer(line))
                task.add_done_callback(lambda _: room.release())

    async def _answer(self, line: InputLine) -> None:
        if line.request is None:
            self._write(error_line(None, "invalid_line", f"line {line.number}: {line.error}"), False)
            return
        try:
            status, request_id, body = await self._post(line.request)
        except (HTTPError, OSError) as error:
            self._write(error_line(line.request.custom_id, "no_answer", f"{error}"), False)
            return
        self._write(answer_line(line.request.custom_id, status, request_id, body), status == 200)

    async def _post(self, request: BatchRequest) -> tuple[int, str, bytes]:
        headers = {"Content-Type": "application/json"}
        if self._endpoint.key is not None:
            headers["Authorization"] = f"Bearer {self._endpoint.key}"
        for attempt in range(RETRIES + 1):
            answer = await self._client.fetch(
                self._endpoint.url + request.url,
                method="POST",
                headers=headers,
                body=msgspec.json.encode(request.body),
                raise_error=False,
            )
            if answer.code == 599:  # Tornado's own: there was no answer
                raise answer.error or HTTPError(599)
            if answer.code not in (429, 503) or attempt == RETRIES:
                break
            await asyncio.sleep(min(float(answer.headers.get("Retry-After", "1")), 30.0))
        return answer.code, answer.headers.get("X-Request-Id", ""), answer.body

    def _write(self, line: bytes, is_good: bool) -> None:
        while line:  # unbuffered: a full disk may take a part of it
            line = line[self._output.write(line) :]
        self.num_answered += is_good
        self.num_failed += not is_good
        self._advance()


@contextlib.asynccontextmanager
async def _endpoint(options: argparse.Namespace) -> AsyncIterator[Endpoint]:
    """The server that was named, or one of our own until the batch is done."""
    if options.target.startswith(("http://", "https://")):
        key = None
        if options.api_key_file is not None:
            try:
                key = options.api_key_file.read_text().strip().splitlines()[0]
            except (OSError, UnicodeError, IndexError):
                raise UsageError(f"{options.api_key_file}: no key in its first line") from None
        yield Endpoint(options.target.rstrip("/").removesuffix("/v1"), key, REMOTE_REQUESTS)
        return
    async with _own_server(options) as endpoint:
        yield endpoint


@contextlib.asynccontextmanager
async def _own_server(options: argparse.Namespace) -> AsyncIterator[Endpoint]:
    from pagedc.runtime.async_engine import AsyncEngine
    from pagedc.runtime.package import Package
    from pagedc.runtime.serve import engine_options
    from pagedc.runtime.server.app import BoundedServer
    from pagedc.runtime.server.auth import ApiKeys
    from pagedc.runtime.server.hosted_model import HostedModel
    from pagedc.runtime.server.limits import Limits
    from pagedc.runtime.server.served_model import open_served_model
    from pagedc.runtime.server.state import ServerState

    package = Package.open(Path(options.target))
    own = replace(engine_options(options), memory=options.memory, num_threads=options.threads)
    limits = Limits()
    key = secrets.token_hex(32)
    model = open_served_model(package, (), options.max_model_len)
    hosted = HostedModel(model, lambda: AsyncEngine(package.path, own), limits)
    state = ServerState([hosted], limits=limits, keys=ApiKeys([key]))
    server = BoundedServer.of(state)
    try:
        sockets = bind_sockets(0, address="127.0.0.1")
        server.add_sockets(sockets)
        await hosted.start()
        port = sockets[0].getsockname()[1]
        # As many again as the engine runs, so that none of its places stays empty.
        num_requests = 2 * (options.max_num_seqs or package.manifest.limits.max_num_seqs)
        yield Endpoint(f"http://127.0.0.1:{port}", key, num_requests)
    finally:
        server.stop()
        await server.close_all_connections()  # first: requests that nobody waits for need no error
        await hosted.close()
        state.grammars.close()
