"""The process of one engine: `run_module pagedc.runtime.engine_process FD`, FD its end of a socket pair.

Between two steps it reads what has arrived without waiting; when nothing is left to do it sleeps until
something arrives. It ends when the other end of the socket closes, so it never outlives its parent. It
imports numpy and msgspec, and neither the server nor a tokenizer.
"""

import gc
import logging
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from pagedc.runtime.engine import Engine
from pagedc.runtime.errors import EngineError, PackageError, PagedcError, UsageError
from pagedc.runtime.errors import RequestError as RefusedError
from pagedc.runtime.frames import FrameReader, frame
from pagedc.runtime.messages import (
    Abort,
    AddRequest,
    Failed,
    FromEngine,
    Outputs,
    PrepareGrammars,
    Ready,
    RequestError,
    Shutdown,
    Start,
    ToEngine,
)

RECEIVE_BYTES = 1 << 18
QUIET_SECONDS = 1.0  # of an engine with nothing to do, until it prepares for later ones

logger = logging.getLogger(__name__)


def main() -> int:
    """Serve the parent until it hangs up; returns the exit code."""
    # The parent decides when to leave: Ctrl-C and a service manager's SIGTERM reach this process too, and
    # requests that are being drained must survive them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        return serve(connection, open_engine)


def open_engine(start: Start) -> Engine:
    """Open a package and load its program."""
    from pagedc.runtime.config import resolve
    from pagedc.runtime.executors import open_executor
    from pagedc.runtime.package import Package
    from pagedc.runtime.structured_output import GrammarCompiler

    package = Package.open(start.package)
    config = resolve(package.manifest, start.options)
    eos_token_ids = package.manifest.model.eos_token_ids
    grammars = GrammarCompiler(package.tokenizer_path / "tokenizer.json", config.vocab_size, eos_token_ids)
    return Engine(open_executor(package, config), config, eos_token_ids, grammars)


def serve(connection: socket.socket, open_engine: Callable[[Start], Engine]) -> int:
    """Open what the first message names, then take requests until the other end closes; returns the exit
    code.
    """
    channel = _Channel(connection)
    try:
        messages = channel.receive(wait=True)
        if not messages:
            return 0
        start, *others = messages
        if not isinstance(start, Start):
            raise EngineError(f"the first message is {type(start).__name__}, not Start")
        engine = _open(start, open_engine, channel)
        return 1 if engine is None else _run(engine, channel, others)
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the parent is gone


def _open(start: Start, open_engine: Callable[[Start], Engine], channel: "_Channel") -> Engine | None:
    begin = time.perf_counter()
    try:
        engine = open_engine(start)
    except PagedcError as error:
        if isinstance(error, PackageError):
            channel.send(Failed(str(error), "PackageError"))
        elif isinstance(error, UsageError):
            channel.send(Failed(str(error), "UsageError"))
        else:
            channel.send(Failed(str(error)))
        return None
    config = engine.config
    gc.collect()
    gc.freeze()  # what stays for good need not be visited again
    seconds = time.perf_counter() - begin
    limits = (config.num_blocks, config.max_num_seqs, config.max_model_len)
    channel.send(Ready(*limits, load_seconds=seconds, phases=engine.boot_seconds))
    return engine


def _run(engine: Engine, channel: "_Channel", messages: "list[ToEngine | RequestError]") -> int:
    is_leaving = False
    while True:
        is_idle = not (messages or engine.has_work or is_leaving)
        if is_idle:
            _prepare(engine, channel)
        messages = messages or channel.receive(wait=is_idle)
        errors: list[RequestError] = []
        for message in messages:
            is_leaving |= isinstance(message, Shutdown)
            error = message if isinstance(message, RequestError) else _handle(engine, message)
            if error is not None:
                errors.append(error)
        if channel.is_closed or (is_leaving and not engine.has_work):
            return 0
        events = engine.step()
        channel.send(Outputs(events, errors + engine.take_refusals(), engine.stats()))
        messages = []


def _prepare(engine: Engine, channel: "_Channel") -> None:
    """Use the time until something arrives."""
    seconds = QUIET_SECONDS
    while channel.is_quiet(seconds) and engine.prepare():
        seconds = 0.0


def _handle(engine: Engine, message: ToEngine) -> RequestError | None:
    if isinstance(message, AddRequest):
        try:
            engine.add_request(message)
        except RefusedError as error:
            return RequestError(message.request_id, str(error), error.code, error.param)
    elif isinstance(message, Abort):
        engine.abort(message.request_id, message.index)
    elif isinstance(message, PrepareGrammars):
        engine.prepare_grammars()
    return None


class _Channel:
    """Typed messages over the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.is_closed = False
        self._connection = connection
        self._reader = FrameReader()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ToEngine)

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing arrives for so long."""
        return not select.select([self._connection], [], [], seconds)[0]

    def receive(self, *, wait: bool) -> list[ToEngine | RequestError]:
        """What has arrived, or with `wait` at least one message; nothing if the other end has closed.

        A request that is no AddRequest comes as the RequestError to answer it with.
        """
        messages: list[ToEngine | RequestError] = []
        while not self.is_closed:
            try:
                data = self._connection.recv(
                    RECEIVE_BYTES, 0 if wait and not messages else socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                break
            self.is_closed = not data
            messages.extend(map(self._decode, self._reader.feed(data)))
        return messages

    def send(self, message: FromEngine) -> None:
        """Waits while the other end is slower than the engine."""
        self._connection.sendall(frame(self._encoder.encode(message)))

    def _decode(self, content: bytes) -> ToEngine | RequestError:
        try:
            message: ToEngine = self._decoder.decode(content)
            return message
        except msgspec.ValidationError as error:
            match msgspec.msgpack.decode(content):
                case ["AddRequest", str(request_id), *_]:
                    return RequestError(request_id, str(error))
            raise EngineError(f"a message that is none of ours came: {error}") from None
