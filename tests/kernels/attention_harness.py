"""Run kernels/cpu/attention.h over a schedule of steps, as an engine would."""

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from tests.kernels.abi import PagedcBatch, aligned_zeros, make_batch, pointer
from tests.kernels.harness import compile_harness

from pagedc.kernels.reference.attention import BLOCK_SIZE, AttentionConfig

Float32 = npt.NDArray[np.float32]
Chunk = tuple[int, int, int]  # sequence, first position, end position
Step = list[Chunk]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An attention as compiled for a test."""

    config: AttentionConfig
    kv: Literal["float", "bf16"] = "bf16"
    out: Literal["float", "bf16"] = "float"
    has_sinks: bool = False
    has_slopes: bool = False
    bias_shape: tuple[int, int] = (0, 0)  # rank and extent of a bias of each distance


@dataclass(frozen=True, slots=True)
class Tokens:
    """The q, k and v of one sequence, and what its biases are made of, [num_tokens, heads, dim]."""

    q: Float32
    k: Float32
    v: Float32
    x: Float32


SOURCE = """
#include "attention.h"
using namespace pagedc;

extern "C" void* make_team(int size) { return new Team(size); }
extern "C" void free_team(void* team) { delete static_cast<Team*>(team); }

template <class Config, class KV, class Out>
void run(void* team, const pagedc_batch* batch, const float* q, int64_t ldq, const float* k, int64_t ldk,
         const float* v, int64_t ldv, const float* sinks, const float* slopes, const DistanceBias& biases,
         void* cache, void* scratch, Out* out, int64_t ldo) {
  static_cast<Team*>(team)->run([&](Worker& worker) {
    attention<Config, KV, Out>(worker, *batch, q, ldq, k, ldk, v, ldv, sinks, cache, scratch, out, ldo,
                                 slopes, biases);
  });
}
"""

CASE_SOURCE = """
struct Config{index} {{
  static constexpr int num_heads = {c.num_heads}, num_kv_heads = {c.num_kv_heads}, head_dim = {c.head_dim};
  static constexpr int v_head_dim = {c.v_head_dim}, window = {c.window}, chunk = {c.chunk};
  static constexpr float scale = {c.scale}f, softcap = {c.softcap}f;
  static constexpr bool has_sinks = {has_sinks}, causal = true;
}};
extern "C" size_t block_bytes_{index}() {{ return kv_bytes_per_block<Config{index}, {kv}>(); }}
extern "C" size_t scratch_bytes_{index}(int n) {{ return attention_scratch_bytes<Config{index}, {kv}>(n); }}
extern "C" void run_{index}(
    void* team, const pagedc_batch* batch, const float* q, int64_t ldq, const float* k, int64_t ldk,
    const float* v, int64_t ldv, const float* x, int64_t ldx, const float* sinks, const float* slopes,
    const float* profiles, void* cache, void* scratch, {out}* out, int64_t ldo) {{
  const DistanceBias biases = {{profiles ? x : nullptr, ldx, profiles, {rank}, {extent}}};
  run<Config{index}, {kv}, {out}>(team, batch, q, ldq, k, ldk, v, ldv, sinks, slopes, biases, cache, scratch,
                                  out, ldo);
}}
"""


def compile_cases(cases: Sequence[Case], march: str = "native", flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    parts = [
        CASE_SOURCE.format(
            index=i,
            c=case.config,
            kv=case.kv,
            out=case.out,
            has_sinks="true" if case.has_sinks else "false",
            rank=case.bias_shape[0],
            extent=case.bias_shape[1],
        )
        for i, case in enumerate(cases)
    ]
    library = compile_harness(SOURCE + "".join(parts), march, flags)
    library.make_team.restype = ctypes.c_void_p
    library.make_team.argtypes = (ctypes.c_int,)
    library.free_team.argtypes = (ctypes.c_void_p,)
    pointer_and_stride = (ctypes.c_void_p, ctypes.c_int64)
    for i in range(len(cases)):
        getattr(library, f"block_bytes_{i}").restype = ctypes.c_size_t
        getattr(library, f"scratch_bytes_{i}").restype = ctypes.c_size_t
        getattr(library, f"run_{i}").argtypes = (
            *(ctypes.c_void_p, ctypes.POINTER(PagedcBatch), *pointer_and_stride * 4),
            *(ctypes.c_void_p,) * 5,
            *pointer_and_stride,
        )
        getattr(library, f"run_{i}").restype = None
    return library


def random_tokens(case: Case, num_tokens: int, seed: int) -> Tokens:
    config = case.config
    rng = np.random.default_rng(seed)
    heads = (
        (config.num_heads, config.head_dim),
        (config.num_kv_heads, config.head_dim),
        (config.num_kv_heads, config.v_head_dim),
        (config.num_heads, case.bias_shape[0]),
    )
    return Tokens(*(rng.standard_normal((num_tokens, *shape), dtype=np.float32) for shape in heads))


def run_steps(
    library: ctypes.CDLL,
    index: int,
    case: Case,
    sequences: Sequence[Tokens],
    steps: Sequence[Step],
    *,
    num_threads: int = 1,
    sinks: Float32 | None = None,
    slopes: Float32 | None = None,
    profiles: Float32 | None = None,
    seed: int = 0,
) -> list[Float32]:
    """Run the steps over a cache full of stale values.

    Return every token's output, one [num_tokens, num_heads, v_head_dim] a sequence.
    """
    config = case.config
    rng = np.random.default_rng(seed)
    blocks_needed = [-(-len(s.q) // BLOCK_SIZE) for s in sequences]
    free = rng.permutation(sum(blocks_needed) + 3).astype(np.int32)
    tables = np.full((len(sequences), max(blocks_needed) + 2), -1, np.int32)
    for s, count in enumerate(blocks_needed):
        tables[s, :count], free = free[:count], free[count:]
    cache = aligned_zeros((sum(blocks_needed) + 3) * getattr(library, f"block_bytes_{index}")(), fill=0x42)
    scratch = aligned_zeros(getattr(library, f"scratch_bytes_{index}")(num_threads), fill=0xFF)
    outs = [np.full((len(s.q), config.num_heads, config.v_head_dim), np.nan, np.float32) for s in sequences]
    team = library.make_team(num_threads)
    try:
        for step in steps:
            q, k, v, x = (
                np.concatenate([getattr(sequences[s], name)[begin:end] for s, begin, end in step])
                for name in "qkvx"
            )
            qkvx = np.concatenate(
                [part.reshape(len(q), part[0].size) for part in (q, k, v, x)], axis=1
            )  # as a fused linear writes it
            starts = np.cumsum([0, *(part[0].size * 4 for part in (q, k, v))])
            positions = np.concatenate([np.arange(b, e, dtype=np.int32) for _, b, e in step])
            slots = [
                tables[s, np.arange(b, e) // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE
                + np.arange(b, e) % BLOCK_SIZE
                for s, b, e in step
            ]
            slot_mapping = np.concatenate(slots)
            block_tables = np.ascontiguousarray(tables[[s for s, _, _ in step]])
            context_lens = np.array([e for _, _, e in step], np.int32)
            query_start_loc = np.cumsum([0, *(e - b for _, b, e in step)], dtype=np.int32)
            batch = make_batch(
                num_tokens=len(q),
                num_seqs=len(step),
                max_blocks=block_tables.shape[1],
                positions=positions,
                slot_mapping=slot_mapping,
                block_tables=block_tables,
                context_lens=context_lens,
                query_start_loc=query_start_loc,
            )
            width = config.num_heads * config.v_head_dim
            out = np.full((len(q), width + 5), 7, np.float32 if case.out == "float" else np.uint16)
            columns = ((qkvx.ctypes.data + int(start), qkvx.shape[1]) for start in starts)
            getattr(library, f"run_{index}")(
                team,
                batch,
                *itertools.chain(*columns),
                *map(pointer, (sinks, slopes, profiles, cache, scratch)),
                *(pointer(out), out.shape[1]),
            )
            assert (out[:, -5:] == 7).all()
            rows = np.ascontiguousarray(out[:, :-5]).reshape(len(q), config.num_heads, config.v_head_dim)
            if case.out == "bf16":
                rows = (rows.astype(np.uint32) << 16).view(np.float32)
            for i, (s, begin, end) in enumerate(step):
                outs[s][begin:end] = rows[query_start_loc[i] : query_start_loc[i + 1]]
    finally:
        library.free_team(team)
    return outs
