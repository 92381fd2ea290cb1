import ctypes
import re
from pathlib import Path

import pytest

from pagedc.runtime.heap import trim_heap

BLOCK_BYTES = 4096
NUM_BLOCKS = 16384


def resident_bytes() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library keeps what was freed"
)
def test_what_was_freed_below_a_block_in_use_goes_back() -> None:
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [library.malloc(ctypes.c_size_t(BLOCK_BYTES)) for _ in range(NUM_BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK_BYTES)
    for block in blocks[:-1]:
        library.free(block)
    before = resident_bytes()
    trim_heap()
    after = resident_bytes()
    library.free(blocks[-1])
    assert before - after > BLOCK_BYTES * NUM_BLOCKS // 2
