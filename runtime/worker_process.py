"""The other end of a `Worker`: answer within limits on memory, files and processor time.

Time is the process's own, not the clock's: on a machine that is busy with something else an honest question
would be late through no fault of its own. Who needs more dies of SIGPROF, in the middle of whatever C code.
"""

import resource
import signal
import socket
import sys
from collections.abc import Callable

from pagedc.runtime.frames import FrameReader, frame


def answer_all(answer: Callable[[bytes], bytes], memory_bytes: int) -> int:
    """Answer until the parent hangs up; returns the exit code. `sys.argv` has the socket's number and the
    seconds that one answer may take; `memory_bytes` are of address space.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds, reader = float(sys.argv[2]), FrameReader()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        connection.sendall(frame(b""))  # ready: the limit of an answer need not cover the imports
        while data := connection.recv(1 << 18):
            for content in reader.feed(data):
                signal.setitimer(signal.ITIMER_PROF, seconds)
                answered = answer(content)
                signal.setitimer(signal.ITIMER_PROF, 0)
                connection.sendall(frame(answered))
    return 0
