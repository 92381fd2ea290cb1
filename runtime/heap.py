"""Give freed memory back to the operating system, where the C library can."""

import ctypes


def trim_heap() -> None:
    """Free pages of every thread's heap go back now. glibc keeps most of what a thread other than the first
    freed; other C libraries have no such call, and nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
