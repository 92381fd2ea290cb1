"""linear, embedding and grouped_linear behind ctypes: a library per instruction set."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tests.kernels.harness import compile_harness
from tests.kernels.packing import Matrix, random_matrix

from pagedc.kernels.cpu.layout import packed_bytes, parse_format
from pagedc.kernels.reference.linear import to_bfloat16

NUM_EXPERTS = 5


class Case(NamedTuple):
    """A matrix [rows, columns] of a format."""

    format_name: str
    rows: int
    columns: int

    @property
    def symbol(self) -> str:
        return f"{self.format_name}_{self.rows}_{self.columns}"


# Rows that leave the last panel unfilled, columns that are odd and longer than a run of unpacked weights.
CASES = (
    Case("f32", 71, 301),
    Case("bf16", 71, 301),
    Case("bf16", 48, 64),
    Case("bf16", 160, 96),
    Case("coded_bf16", 71, 301),
    Case("coded_bf16", 32, 1544),
    Case("int8_g0", 71, 301),
    Case("int8_g32", 37, 352),
    Case("int4_g32", 16, 32),
    Case("int4_g32_min", 37, 608),
    Case("int4_g64", 5, 320),
    Case("int4_g128_min", 37, 384),
    Case("int8_g16_f32", 37, 368),
    Case("int8_g32_min", 21, 64),
    Case("int8_g128_min_f32", 5, 256),
    Case("int4_g16_min_f32", 37, 304),
    Case("int4_g16", 16, 48),
    Case("int4_g32_min_i8", 37, 768),
    Case("int8_g16_i8", 32, 512),
    Case("int4_g32_min", 96, 64),
    Case("int8_g0", 64, 33),
)


def error_bound(case: Case) -> float:
    """Over the sum of the products' sizes: float32 sums in any order keep below it."""
    return 2e-6 * max(1, case.columns / 500)


STRIPED_CASES = tuple(case for case in CASES if case.rows % 32 == 0)

SOURCE = """
#include "embedding.h"
#include "grouped_linear.h"

using namespace pagedc;

template <int N>
struct Out {
  float* out;
  PAGEDC_INLINE void operator()(int64_t t, int n, const float* acc, int count) const {
    for (int i = 0; i < count; ++i) out[t * N + n + i] = acc[i];
  }
};

// Back to where the rows would be without stripes.
template <int N>
struct StripesOut {
  float* out;
  PAGEDC_INLINE void operator()(int64_t t, int n, const float* acc, int count) const {
    for (int stripe = 0; stripe < 2; ++stripe)
      for (int i = 0; i < count; ++i) out[t * N + 2 * n + stripe * 16 + i] = acc[stripe * 16 + i];
  }
};

extern "C" Team* team_create(int size) { return new Team(size); }
extern "C" void team_destroy(Team* team) { delete team; }
extern "C" int64_t scratch_bytes(int experts, int top_k, int threads, int64_t tokens) {
  return grouped_linear_scratch_bytes(experts, top_k, threads, tokens);
}
"""
CASE_SOURCE = """
extern "C" void linear_{symbol}(Team* team, int64_t T, const {type}::Input* x, int64_t ldx,
                                const void* packed, float* out) {{
  team->run([&](Worker& worker) {{
    linear<{type}, {rows}, {columns}>(worker, T, x, ldx, packed, Out<{rows}>{{out}});
  }});
}}
extern "C" void embedding_{symbol}(int64_t begin, int64_t end, const int32_t* ids, const void* packed,
                                   float* out) {{
  embedding<{type}, {rows}, {columns}>(begin, end, ids, packed, out, {columns});
}}
extern "C" void grouped_{symbol}(Team* team, int64_t T, int top_k, const int32_t* expert_ids,
                                 const {type}::Input* x, int64_t ldx, int64_t ldx_slot, const void* packed,
                                 void* scratch, float* out) {{
  team->run([&](Worker& worker) {{
    grouped_linear<{type}, {experts}, {rows}, {columns}>(
        worker, T, top_k, expert_ids, x, ldx, ldx_slot, packed, scratch, Out<{rows}>{{out}});
  }});
}}
"""


STRIPED_SOURCE = """
extern "C" void striped_{symbol}(Team* team, int64_t T, const {type}::Input* x, int64_t ldx,
                                 const void* packed, float* out) {{
  team->run([&](Worker& worker) {{
    linear<{type}, {rows}, {columns}, 2>(worker, T, x, ldx, packed, StripesOut<{rows}>{{out}});
  }});
}}
"""
# Other tiles than the default: in place and unpacked, of one token and of several.
TUNED_SOURCE = """
struct Tuned_{symbol} : Tile<{type}> {{
  static constexpr int ONE_PANELS = 2, PANELS = 3, TOKENS = 5, UNPACKED_TOKENS = 3, UNPACKED_PANELS = 1;
  static constexpr int UNPACK_ABOVE = 7, AHEAD = 0, ROUNDS = 2;
}};
extern "C" void tuned_{symbol}(Team* team, int64_t T, const {type}::Input* x, int64_t ldx,
                               const void* packed, float* out) {{
  team->run([&](Worker& worker) {{
    linear<{type}, {rows}, {columns}, 1, Tuned_{symbol}>(worker, T, x, ldx, packed, Out<{rows}>{{out}});
  }});
}}
"""


@cache
def library(march: str) -> ctypes.CDLL:
    """The harness compiled for `march`."""
    source = SOURCE + "".join(
        (CASE_SOURCE + TUNED_SOURCE + (STRIPED_SOURCE if case in STRIPED_CASES else "")).format(
            symbol=case.symbol,
            type=parse_format(case.format_name).cpp_type,
            rows=case.rows,
            columns=case.columns,
            experts=NUM_EXPERTS,
        )
        for case in CASES
    )
    loaded = compile_harness(source, march)
    loaded.team_create.restype = ctypes.c_void_p
    loaded.scratch_bytes.restype = ctypes.c_int64
    return loaded


@contextmanager
def team(march: str, size: int) -> Iterator[ctypes.c_void_p]:
    """A team of `size` threads."""
    handle = ctypes.c_void_p(library(march).team_create(size))
    try:
        yield handle
    finally:
        library(march).team_destroy(handle)


@cache
def matrix(case: Case) -> Matrix:
    return random_matrix(case.format_name, case.rows, case.columns)


@cache
def experts(case: Case) -> Matrix:
    """NUM_EXPERTS matrices, one after the other."""
    matrices = [random_matrix(case.format_name, case.rows, case.columns, seed) for seed in range(NUM_EXPERTS)]
    room = np.empty(sum(one.packed.size for one in matrices) + 64, np.uint8)
    start = -room.ctypes.data % 64
    packed = room[start : start + NUM_EXPERTS * packed_bytes(*case)]
    packed[:] = np.concatenate([one.packed for one in matrices])
    return Matrix(packed, np.stack([one.weights for one in matrices]))


def random_x(case: Case, shape: tuple[int, ...], seed: int = 1) -> npt.NDArray[np.float32]:
    """x [..., columns], of numbers that the format's input type can hold."""
    x = np.random.default_rng(seed).standard_normal((*shape, case.columns), dtype=np.float32)
    return x if case.format_name == "f32" else (to_bfloat16(x).astype(np.uint32) << 16).view(np.float32)


def as_input(case: Case, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | npt.NDArray[np.uint16]:
    return np.ascontiguousarray(x) if case.format_name == "f32" else to_bfloat16(x)


def run_linear(
    march: str,
    handle: ctypes.c_void_p,
    case: Case,
    x: npt.NDArray[np.float32],
    padding: int = 0,
    kind: str = "linear",
) -> npt.NDArray[np.float32]:
    """out [T, rows] of x [T, columns], its rows `padding` NaNs apart; `kind`: "striped" or "tuned", too."""
    inputs = as_input(case, np.pad(x, ((0, 0), (0, padding)), constant_values=np.nan))
    out = np.full((len(x), case.rows), np.nan, np.float32)
    function = getattr(library(march), f"{kind}_{case.symbol}")
    stride = ctypes.c_int64(inputs.shape[1])
    function(
        handle, ctypes.c_int64(len(x)), _pointer(inputs), stride, _pointer(matrix(case).packed), _pointer(out)
    )
    return out


def run_embedding(march: str, case: Case, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """out [T, columns], the rows [1, T − 1) of which are looked up."""
    out = np.zeros((len(ids), case.columns), np.float32)
    function = getattr(library(march), f"embedding_{case.symbol}")
    first, last = ctypes.c_int64(1), ctypes.c_int64(len(ids) - 1)
    function(first, last, _pointer(ids), _pointer(matrix(case).packed), _pointer(out))
    return out


def run_grouped(
    march: str,
    handle: ctypes.c_void_p,
    num_threads: int,
    case: Case,
    x: npt.NDArray[np.float32],
    expert_ids: npt.NDArray[np.int32],
) -> npt.NDArray[np.float32]:
    """out [T, top_k, rows] of x [T, top_k, columns] or [T, 1, columns] and expert_ids [T, top_k]."""
    num_tokens, top_k = expert_ids.shape
    inputs = as_input(case, x)
    out = np.full((num_tokens, top_k, case.rows), np.nan, np.float32)
    size = library(march).scratch_bytes(NUM_EXPERTS, top_k, num_threads, ctypes.c_int64(num_tokens))
    scratch = np.empty(size, np.uint8)
    function = getattr(library(march), f"grouped_{case.symbol}")
    function(
        handle,
        ctypes.c_int64(num_tokens),
        top_k,
        _pointer(np.ascontiguousarray(expert_ids)),
        _pointer(inputs),
        ctypes.c_int64(inputs.shape[1] * case.columns),
        ctypes.c_int64(case.columns if inputs.shape[1] > 1 else 0),
        _pointer(experts(case).packed),
        _pointer(scratch),
        _pointer(out),
    )
    return out


def _pointer(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
