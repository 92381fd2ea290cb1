import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.http.tokenizer_files import write_tokenizer
from tests.patience import PATIENCE
from tests.runtime.mock_engine import CONFIG
from tests.runtime.mock_executor import MockExecutor, QueueingMock

from pagedc.runtime import engine_process
from pagedc.runtime.config import EngineOptions
from pagedc.runtime.engine import Engine
from pagedc.runtime.engine_process import serve
from pagedc.runtime.errors import EngineError
from pagedc.runtime.frames import FrameError, FrameReader, frame
from pagedc.runtime.messages import (
    AddRequest,
    FromEngine,
    Outputs,
    PrepareGrammars,
    Ready,
    Shutdown,
    Start,
    ToEngine,
)
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.structured_output import GrammarCompiler

START = Start("well", EngineOptions(num_threads=2))


class Parent:
    """Talks to `serve` in a thread; `outcome` is its exit code, or what it raised."""

    def __init__(
        self, grammars: GrammarCompiler | None = None, executor: type[MockExecutor] = MockExecutor
    ) -> None:
        self._grammars = grammars
        self.executor = executor(CONFIG)
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE)
        self.outcome: int | Exception | None = None
        self._reader = FrameReader()
        self._thread = threading.Thread(target=self._serve, args=[theirs])
        self._thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.outcome = serve(
                    connection, lambda start: Engine(self.executor, CONFIG, [0], self._grammars)
                )
            except Exception as error:
                self.outcome = error

    def send(self, *messages: ToEngine) -> None:
        self.socket.sendall(b"".join(frame(msgspec.msgpack.encode(message)) for message in messages))

    def received(self) -> Iterator[FromEngine]:
        while data := self.socket.recv(1 << 16):
            for content in self._reader.feed(data):
                yield msgspec.msgpack.decode(content, type=FromEngine)

    def join(self) -> int | Exception | None:
        self._thread.join(PATIENCE)
        self.socket.close()
        return self.outcome


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.socket.close()
    parent._thread.join(PATIENCE)


def test_shutdown_leaves_when_nothing_runs(parent: Parent) -> None:
    parent.send(START, AddRequest("a", [1], SamplingParams(max_tokens=3, ignore_eos=True)), Shutdown())
    ready, *outputs = parent.received()
    assert isinstance(ready, Ready)
    assert ready.num_blocks == CONFIG.num_blocks
    events = [event for output in outputs if isinstance(output, Outputs) for event in output.events]
    assert len(events) == 3
    assert parent.join() == 0


def test_hanging_up_ends_it_at_any_time() -> None:
    parent = Parent()
    parent.socket.close()
    assert parent.join() == 0
    parent = Parent()
    parent.send(START, AddRequest("a", [1], SamplingParams(ignore_eos=True)))
    parent.socket.close()
    assert parent.join() == 0


def test_a_frame_that_is_no_message_ends_it(parent: Parent) -> None:
    parent.send(START)
    parent.socket.sendall(b"\xff" * 8)
    assert isinstance(parent.join(), FrameError)


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", msgspec.msgpack.encode(["Unknown", 1]), msgspec.msgpack.encode(3)]
)
def test_a_message_of_another_kind_ends_it(parent: Parent, content: bytes) -> None:
    parent.send(START)
    parent.socket.sendall(frame(content))
    assert isinstance(parent.join(), EngineError | msgspec.DecodeError)


def test_the_first_message_must_be_start(parent: Parent) -> None:
    parent.send(Shutdown())
    assert isinstance(parent.join(), EngineError)


def test_a_bad_request_is_answered(parent: Parent) -> None:
    parent.send(START)
    parent.socket.sendall(frame(msgspec.msgpack.encode(["AddRequest", "a", [1], {"temperature": -1.0}])))
    answers = parent.received()
    next(answers)
    output = next(answers)
    assert isinstance(output, Outputs)
    assert [error.request_id for error in output.errors] == ["a"]
    assert "temperature is -1.0" in output.errors[0].message


def test_the_template_process_imports_little() -> None:
    code = "import pagedc.runtime.template_process, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"msgspec", "numpy", "asyncio", "tokenizers", "tornado"} & set(modules)


def test_the_process_imports_little() -> None:
    code = "import pagedc.runtime.engine_process, pagedc.runtime.executors.cpu, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    # (pickle is there: numpy imports it)
    unwanted = {
        "torch",
        "transformers",
        "tornado",
        "tokenizers",
        "jinja2",
        "asyncio",
        "rich",
        "multiprocessing",
    }
    assert not unwanted & set(modules)


@pytest.mark.parametrize("is_broken", [False, True])
def test_the_tokenizer_for_grammars_is_read_when_one_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_broken: bool
) -> None:
    monkeypatch.setattr(engine_process, "QUIET_SECONDS", 0.0)
    write_tokenizer(tmp_path)
    if is_broken:  # only who asks for a grammar has to know
        (tmp_path / "tokenizer.json").write_text("{}")
    grammars = GrammarCompiler(tmp_path / "tokenizer.json", 258, [257])
    parent = Parent(grammars)
    request = AddRequest("a", [1], SamplingParams(max_tokens=1, ignore_eos=True))
    parent.send(START, request)
    messages = parent.received()
    assert any(output.events for output in messages if isinstance(output, Outputs))
    end = time.monotonic() + PATIENCE
    while grammars._thread is None:  # which imports
        assert time.monotonic() < end
        time.sleep(0.01)
    assert grammars._tokenizer is None
    parent.send(PrepareGrammars())
    while not grammars._is_announced or (grammars._tokenizer is None and not is_broken):
        assert time.monotonic() < end
        time.sleep(0.01)
    parent.send(request, Shutdown())
    assert sum(len(output.events) for output in messages if isinstance(output, Outputs)) == 1
    assert parent.join() == 0


def test_an_idle_engine_prepares_for_larger_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "QUIET_SECONDS", 0.0)
    parent = Parent(executor=QueueingMock)
    executor = parent.executor
    assert isinstance(executor, QueueingMock)
    parent.send(START)
    messages = parent.received()
    ready = next(messages)
    assert isinstance(ready, Ready)
    assert ready.phases == {"weights": 0.25}
    end = time.monotonic() + PATIENCE
    while executor.num_cold >= 0 and time.monotonic() < end:
        time.sleep(0.001)
    assert executor.num_cold < 0
    parent.send(AddRequest("a", [1], SamplingParams(max_tokens=3, ignore_eos=True)), Shutdown())
    outputs = [message for message in messages if isinstance(message, Outputs)]
    assert sum(len(output.events) for output in outputs) == 3
    assert parent.join() == 0
