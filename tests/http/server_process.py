"""Start, ask and end a server process; plain HTTP without a client library's opinions."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.patience import PATIENCE

JSON = {"Content-Type": "application/json"}
POST_COMPLETION = (
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n"
)
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The one error body, its form checked."""
        body = self.json()
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert isinstance(body["error"]["message"], str)
        assert isinstance(body["error"]["type"], str)
        error: dict[str, Any] = body["error"]
        return error


def fake_server(tokenizer_dir: Path, settings: dict[str, Any]) -> "ServerProcess":
    """A server over the fake engine."""
    script = Path(__file__).with_name("fake_server.py")
    return ServerProcess([sys.executable, "-X", "dev", script, tokenizer_dir, json.dumps(settings)])


class ServerProcess:
    """A server in a process of its own, on a free port."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self.process = subprocess.Popen(command, stderr=self._log)

    def __enter__(self) -> "ServerProcess":
        try:
            line = self.wait_for_log("Listening on ")
        except BaseException:
            self.process.kill()
            self.process.wait()
            self._log.close()
            raise
        match = re.search(r"http://(\S+):(\d+)", line)
        assert match
        self.host, self.port = match[1], int(match[2])
        self.url = match[0]
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        log = self.log()
        self._log.close()
        assert not any(word in log for word in ("Traceback", "Warning", "never retrieved")), log

    def log(self) -> str:
        """All that was logged so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode()

    def wait_for_log(self, text: str) -> str:
        """The first log line with this text."""
        end = time.monotonic() + PATIENCE
        is_over = False
        while time.monotonic() < end and not is_over:
            is_over = self.process.poll() is not None
            for line in self.log().splitlines():
                if text in line:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no {text!r} in the log:\n{self.log()}")

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> Answer:
        """One exchange on a connection of its own; bytes are sent as they are, all else as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {**(JSON if data is not None else {}), **(headers or {})})
            response = connection.getresponse()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def chat(self, **fields: Any) -> Answer:
        """POST a chat request with some fields changed."""
        return self.ask("POST", "/v1/chat/completions", {**CHAT, **fields})

    def complete(self, **fields: Any) -> Answer:
        """POST a completion request with some fields changed."""
        return self.ask(
            "POST", "/v1/completions", {"model": "fake", "prompt": "hi", "max_tokens": 5, **fields}
        )

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection((self.host, self.port), timeout=PATIENCE)

    def raw(self, data: bytes) -> bytes:
        """Send bytes, and read until the server hangs up."""
        with self.connect() as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
            return read_all(sock)

    def metric(self, name: str) -> float:
        """The value of a metric with one set of labels."""
        text = self.ask("GET", "/metrics").body.decode()
        match = re.search(rf"^pagedc:{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    def wait_for_metric(self, name: str, value: float) -> None:
        """Until a metric has a value."""
        end = time.monotonic() + PATIENCE
        while (found := self.metric(name)) != value:
            assert time.monotonic() < end, f"{name} is {found}, not {value}"
            time.sleep(0.02)


def read_all(sock: socket.socket) -> bytes:
    """What comes until the other side hangs up."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
    return data


def events(body: bytes) -> list[Any]:
    """The events of a stream; the last must be [DONE] and is left out."""
    lines = [line for line in body.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]
