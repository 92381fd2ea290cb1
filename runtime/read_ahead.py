"""Have the kernel read weights before they are needed.

They are read through a map with huge pages, as an engine maps them: so they come into the page cache as huge
pages, 2 MiB at a time. (MADV_WILLNEED reads some MiB at most, and into small pages.)
"""

import ctypes
import os
import threading
from pathlib import Path

_PROT_READ, _MAP_SHARED = 1, 1
_MADV_HUGEPAGE, _MADV_POPULATE_READ = 14, 22  # the latter since Linux 5.14

_libc = ctypes.CDLL(None)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def read_ahead(package: Path) -> threading.Thread:
    """Begin, in a thread of its own; what cannot be read is left for others to complain of."""
    thread = threading.Thread(target=_read_all, args=(package,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _read_all(package: Path) -> None:
    for path in sorted((package / "weights").glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                _read(file.fileno(), os.fstat(file.fileno()).st_size)
        except OSError:
            return


def ask_for_huge_pages(address: int, size: int) -> None:
    """For a map; a kernel without them does nothing."""
    _libc.madvise(address, size, _MADV_HUGEPAGE)


def populate(address: int, size: int) -> None:
    """Have every page of a map of a file there, from the disk if need be; a kernel that cannot does nothing.

    (Python's own mmap.madvise holds the interpreter's lock while it waits for the disk; ctypes does not.)
    """
    _libc.madvise(address, size, _MADV_POPULATE_READ)


def _read(descriptor: int, size: int) -> None:
    address = _libc.mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
    if address not in (None, ctypes.c_void_p(-1).value):  # as of an empty file
        ask_for_huge_pages(address, size)
        populate(address, size)
        _libc.munmap(address, size)
