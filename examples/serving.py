"""Start a package's launcher, ask it something and read the stream, with Python's standard library alone."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

HOST = "127.0.0.1"
RETRY_SECONDS = 0.002  # between two tries to connect: below what anyone would call boot time
PORT_TRIES = 3


class ServerError(Exception):
    """The launcher ended, never answered, or answered with an error."""


class Piece(NamedTuple):
    """One event of the stream."""

    text: str
    usage: dict[str, Any] | None
    seconds: float  # since the launcher was started


class Server:
    """`PACKAGE/serve` on a free port while the `with` block runs; stopped however the block ends."""

    def __init__(self, package: Path, *options: str) -> None:
        self._command = [str(package.resolve() / "serve"), "--host", HOST, *options]
        self._model = json.loads((package / "manifest.json").read_text())["model"]["name"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self.port = 0
        self.started = 0.0  # time.perf_counter()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._log.close()

    @property
    def log(self) -> str:
        """What the server has printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()

    def chat(self, question: str, *, max_tokens: int = 64, timeout: float = 60) -> Iterator[Piece]:
        """Ask greedily and yield the answer as it comes; waits for a server that is still starting."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection, response = self._post("/v1/chat/completions", json.dumps(body), timeout)
        try:
            for line in response:
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                event = json.loads(line[len(b"data: ") :])
                if "error" in event:
                    raise ServerError(event["error"]["message"])
                text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                yield Piece(text, event.get("usage"), time.perf_counter() - self.started)
        finally:
            connection.close()

    def _post(
        self, path: str, body: str, timeout: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        deadline = time.perf_counter() + timeout
        headers = {"Content-Type": "application/json"}
        tries = 1
        while True:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
            try:
                connection.request("POST", path, body, headers)
                response = connection.getresponse()
            except ConnectionError as error:
                connection.close()
                if self._process.poll() is not None:
                    if (
                        "in use" in self.log and tries < PORT_TRIES
                    ):  # somebody took the port since it was free
                        tries += 1
                        self._start()
                        continue
                    raise ServerError(
                        f"the server ended with exit code {self._process.returncode}"
                    ) from error
            else:
                if response.status == http.HTTPStatus.OK:
                    return connection, response
                answer = response.read().decode(errors="replace")
                connection.close()
                if response.status != http.HTTPStatus.SERVICE_UNAVAILABLE:
                    raise ServerError(f"the server answered {response.status}: {answer}")
            if time.perf_counter() > deadline:
                raise ServerError(f"the server did not answer within {timeout:.0f} s")
            time.sleep(RETRY_SECONDS)

    def _start(self) -> None:
        self.port = _free_port()
        self._log.seek(0)
        self._log.truncate()
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [*self._command, "--port", str(self.port)],
            env=os.environ | {"PAGEDC_PYTHON": sys.executable},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # so that nothing it starts can outlive the block
        )

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
