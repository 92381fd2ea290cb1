"""Start an engine's process, before its parent has imported anything that it needs itself."""

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pagedc.runtime.read_ahead import read_ahead
from pagedc.runtime.run_module import RUN_MODULE
from pagedc.runtime.socket_process import start_with_socket

ENGINE_COMMAND = (*RUN_MODULE, "pagedc.runtime.engine_process")
# An engine multiplies nothing with numpy. That numpy's library starts no threads takes 40 ms off its import.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}


class SpawnedEngine(NamedTuple):
    """A process that imports and then waits for its Start message; it ends when the socket is closed."""

    process: "subprocess.Popen[bytes]"
    socket: socket.socket
    started: float  # time.monotonic()

    def end(self) -> None:
        """See it gone, whatever it is at. Safe to call twice, and of a process that has ended."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


def spawn_engine(package: Path, command: Sequence[str] = ENGINE_COMMAND) -> SpawnedEngine:
    """One for a package, whose weights the kernel reads meanwhile. The number of its socket is appended to
    the command. Raises EngineError if it cannot be started.
    """
    started = time.monotonic()
    process, ours = start_with_socket(command, env=_ENVIRONMENT | os.environ)
    read_ahead(package)
    return SpawnedEngine(process, ours, started)
