"""From starting a server's process to the first token of its first request."""

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pagedc.runtime.bench.figures import spread
from pagedc.runtime.bench.load import Load, offer
from pagedc.runtime.bench.machine import drop_page_cache, peak_memory, read_bandwidth
from pagedc.runtime.bench.recording import address_of
from pagedc.runtime.bench.workload import LAST_ID, Lengths, drawn, request_body
from pagedc.runtime.errors import EngineError
from pagedc.runtime.manifest import Model
from pagedc.runtime.package import Package

HOST = "127.0.0.1"
POLL_SECONDS = 0.002
TIMEOUT = 300.0


def measure_startup(path: Path, runs: int, num_threads: int | None) -> dict[str, Any]:
    """Cold and warm starts in turn: with the package's files out of the page cache, and in it.

    Python's own files and its libraries stay cached either way. Beside them what no server of this kind goes
    below: a Python that does nothing, and the weights read once.
    """
    manifest = Package.open(path).manifest
    model, weights_bytes = manifest.model, manifest.memory.weights_bytes
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(runs):
        for kind, starts in found.items():
            if kind == "cold":
                drop_page_cache(path)
            starts.append(_start(path, model, num_threads))
    bandwidth = read_bandwidth(num_threads or len(os.sched_getaffinity(0)))
    figures: dict[str, Any] = {
        "package": str(path),
        "python_seconds": statistics.median(_python_start() for _ in range(runs)),
        "weights_seconds": weights_bytes / bandwidth,
        "read_bandwidth": bandwidth,
    }
    for kind, starts in found.items():
        figures[kind] = {name: spread([start[name] for start in starts]) for name in starts[0]}
    return figures


def _start(path: Path, model: Model, num_threads: int | None) -> dict[str, float]:
    port = free_port()
    words = [] if num_threads is None else ["--threads", str(num_threads)]
    command = [sys.executable, "-P", "-m", "pagedc.runtime.cli", "serve", str(path), "--port", str(port)]
    begin = time.perf_counter()
    with running([*command, *words]) as process:
        wait_until_ready(process, port, "/ready")
        ready = time.perf_counter() - begin
        ask = drawn(1, Lengths(8, 8), Lengths(2, 2), 0, min(LAST_ID, model.vocab_size - 1))[0]
        body = request_body(ask, model.name, chat=False, ignore_eos=True)
        address = address_of(f"http://{HOST}:{port}", "/v1/completions")
        answer = asyncio.run(offer(address, [body], Load()))[0][0]
        if answer.error:
            raise EngineError(f"the server's first answer failed: {answer.error}")
        first_token = answer.token_times[0] - begin
        return {"ready": ready, "first_token": first_token, "peak_memory": peak_memory(process.pid)}


def _python_start() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", ""], check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - begin


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process with all that it starts, ended with the block."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        except EngineError as error:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise EngineError(f"{error}: {lines[-1]}" if lines else str(error)) from None
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(
    process: subprocess.Popen[bytes], port: int, path: str, timeout: float = TIMEOUT
) -> None:
    """Until GET `path` answers 200. Raises EngineError if it ends or never does."""
    deadline = time.perf_counter() + timeout
    while time.perf_counter() < deadline:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except (OSError, http.client.HTTPException):
            if process.poll() is not None:
                raise EngineError(f"the server ended with exit code {process.returncode}") from None
        finally:
            connection.close()
        time.sleep(POLL_SECONDS)
    raise EngineError(f"the server was not ready within {timeout:g} s")


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
