"""Have the kernel read weights before they are needed.

They are read through a map with huge pages, as an engine maps them: so they come into the page cache as huge
pages, 2 MiB at a time. (MADV_WILLNEED reads some MiB at most, and into small pages.) A kernel before Linux
5.14 cannot: there the file is read as any other.
"""

import contextlib
import ctypes
import os
import threading
from pathlib import Path

_PROT_READ, _MAP_SHARED = 1, 1
_MADV_HUGEPAGE, _MADV_POPULATE_READ = 14, 22
CHUNK = 64 << 20  # bytes mapped or asked for at once: whole huge pages

_libc = ctypes.CDLL(None)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def read_ahead(package: Path) -> threading.Thread:
    """Begin, in a thread of its own; what cannot be read is left for others to complain of."""
    thread = threading.Thread(target=_read_all, args=(package,), name="read-ahead", daemon=True)
    with contextlib.suppress(RuntimeError):  # no more threads: it is for speed alone
        thread.start()
    return thread


def _read_all(package: Path) -> None:
    with contextlib.suppress(OSError):
        for path in sorted((package / "weights").glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                if not _populate_cache(file.fileno(), os.fstat(file.fileno()).st_size):
                    buffer = bytearray(1 << 20)
                    while file.readinto(buffer):
                        pass


def ask_for_huge_pages(address: int, size: int) -> None:
    """For a map; a kernel without them does nothing."""
    _libc.madvise(address, size, _MADV_HUGEPAGE)


def populate(address: int, size: int) -> bool:
    """Have every page of a map of a file there, from the disk if need be; False where the kernel cannot.

    (Python's own mmap.madvise holds the interpreter's lock while it waits for the disk; ctypes does not. A
    signal is handled between two chunks.)
    """
    return all(
        _libc.madvise(address + begin, min(CHUNK, size - begin), _MADV_POPULATE_READ) == 0
        for begin in range(0, size, CHUNK)
    )


def _populate_cache(descriptor: int, size: int) -> bool:
    """One chunk after the other, for what is mapped counts as this process's memory."""
    for begin in range(0, size, CHUNK):
        length = min(CHUNK, size - begin)
        address = _libc.mmap(None, length, _PROT_READ, _MAP_SHARED, descriptor, begin)
        if address in (None, ctypes.c_void_p(-1).value):
            return False
        ask_for_huge_pages(address, length)
        is_there = populate(address, length)
        _libc.munmap(address, length)
        if not is_there:
            return False
    return True
