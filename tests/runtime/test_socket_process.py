import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pagedc.runtime.errors import EngineError
from pagedc.runtime.socket_process import start_with_socket

ECHO = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).sendall(sys.argv[2].encode())"


@contextmanager
def descriptors(further: int) -> Iterator[None]:
    """As where no more than so many files can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + further, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_process_has_the_other_end_and_its_words() -> None:
    process, ours = start_with_socket((sys.executable, "-c", ECHO), "hello", env=os.environ)
    with ours:
        assert ours.recv(9) == b"hello"
    assert process.wait() == 0


@pytest.mark.parametrize("further", [0, 2])  # none for the sockets; none for what starts a process
def test_no_file_descriptor_is_one_line(further: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with descriptors(further), pytest.raises(EngineError, match="mod cannot be started: Too many open files"):
        start_with_socket((sys.executable, "-m", "mod"), env={}, stderr=subprocess.DEVNULL)
    assert len(os.listdir("/proc/self/fd")) == before
