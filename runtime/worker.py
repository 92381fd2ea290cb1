"""A process that does one thing that cannot be trusted to end: asked one question at a time, ended when it
works too long (`worker_process` is its side).

It answers on its end of a socket pair with frames; an empty one says that it has started.
"""

import os
import signal
import subprocess
import time

from pagedc.runtime.errors import EngineError
from pagedc.runtime.frames import FrameReader, frame
from pagedc.runtime.run_module import RUN_MODULE
from pagedc.runtime.socket_process import start_with_socket

PATIENCE = 60.0  # seconds, by the clock, for it to import what it needs or to answer, on the busiest machine
# What Python itself needs to start; what comes from outside has no business with the rest, such as keys.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")


class Worker:
    """One process, which runs a module's `main` with FD and SECONDS; started at once, without waiting for
    it.
    """

    def __init__(self, module: str, time_limit: float) -> None:
        """`time_limit`: seconds of processor time for one answer. Raises EngineError if it cannot be
        started.
        """
        self._module = module
        self._process, self._socket = start_with_socket(
            (*RUN_MODULE, module),
            str(time_limit),
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            stderr=subprocess.DEVNULL,  # what it has to say comes through the socket
        )
        self._reader = FrameReader()
        self._is_started = False

    @property
    def is_alive(self) -> bool:
        """Whether its process runs: what was ended while nobody asked is no fault of the next question."""
        return self._process.poll() is None

    def ask(self, data: bytes) -> bytes:
        """Its answer; raises TimeoutError where that takes more than the time limit, OSError or FrameError if
        the process died, and EngineError where it says nothing for as long as PATIENCE.
        """
        if not self._is_started:
            self._receive()
            self._is_started = True
        self._socket.settimeout(PATIENCE)
        self._socket.sendall(frame(data))
        return self._receive()

    def kill(self) -> None:
        """End it; what it was doing is lost."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _receive(self) -> bytes:
        deadline = time.monotonic() + PATIENCE
        frames: list[bytes] = []
        while not frames:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:  # by the clock: it was not given the time that it may work
                raise EngineError(f"{self._module} said nothing for {PATIENCE:g} s") from None
            if not data:
                self._process.kill()  # it has hung up: it is dead or dying
                if self._process.wait() == -signal.SIGPROF:
                    raise TimeoutError("it worked too long")
                raise ConnectionResetError("it closed its socket")
            frames = self._reader.feed(data)
        return frames[0]
