"""Start a process that is talked to over a socket pair."""

import socket
import subprocess
from collections.abc import Mapping, Sequence

from pagedc.runtime.errors import EngineError


def start_with_socket(
    command: Sequence[str],
    *words: str,
    env: Mapping[str, str],
    stderr: int | None = None,
) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """The process and our end; the number of its own follows `command`, and `words` that.

    Raises EngineError if it cannot be started: no program, no memory, no file descriptor.
    """
    try:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    [*command, str(theirs.fileno()), *words],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stderr=stderr,
                    env=env,
                )
            except OSError:
                ours.close()
                raise
    except OSError as error:
        raise EngineError(f"{command[-1]} cannot be started: {error.strerror}") from None
    return process, ours
