import ctypes

import pytest
from tests.kernels.harness import compile_harness

SOURCE = """
#include "memory.h"
using namespace pagedc;

extern "C" void* reserve(size_t size) {
  static Memory all[64];
  static int count = 0;
  return all[count].reserve(size) ? all[count++].data() : nullptr;
}
"""
HUGE_PAGE = 2 << 20


def load() -> ctypes.CDLL:
    library = compile_harness(SOURCE)
    library.reserve.restype = ctypes.c_void_p
    library.reserve.argtypes = [ctypes.c_size_t]
    return library


@pytest.mark.parametrize("size", [0, 1, 4096, HUGE_PAGE + 1])
def test_reserved_memory_is_zero_and_can_be_written(size: int) -> None:
    address = load().reserve(size)
    assert ctypes.string_at(address, size) == bytes(size)
    ctypes.memset(address, 1, size)


def test_no_huge_page_is_shared() -> None:
    library = load()
    for size in (3 << 20, 5_000_000, HUGE_PAGE):
        assert library.reserve(size) % HUGE_PAGE == 0
