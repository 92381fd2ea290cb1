"""Paged attention of sequences with one query each: split over the keys, then a reduce.

A sequence's keys are cut into runs; a program walks one or more of them for all query heads of a KV head
and writes each run's (Σ weights · v, maximum, Σ weights); the second kernel adds them in order. How the keys
are cut depends on the sequence's own length only, so its output has the same bits in any batch.
"""

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.attention import (
    LOG2_E,
    AttentionSpec,
    as_cached,
    attend,
    check_optional,
    first_key,
)
from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import KernelConfig, Launch, ceil_div, config, next_power

PROGRAMS_WANTED = 528  # four for each SM of an H200


def scratch_floats(spec: AttentionSpec, num_seqs: int) -> int:
    """float32 values of the scratch between the two kernels."""
    return num_seqs * spec.num_heads * spec.num_splits * (spec.v_head_dim + 2)


def defaults(spec: AttentionSpec, bucket: int) -> KernelConfig:
    """Not tuned: tiles of 16 KiB of K, and enough programs for all SMs at this many sequences.

    Half of the stages wait for the block table: five keep two tiles of K and V on their way.
    """
    size = 4 if spec.kv_dtype == "float32" else 2
    block_kv = min(max(16384 // (next_power(spec.head_dim) * size), 16), 64)
    return config(4, 3 if size == 4 else 5, BLOCK_KV=block_kv, PROGRAMS=programs(spec, bucket))


def programs(spec: AttentionSpec, bucket: int) -> int:
    """Programs that share a sequence's runs for one KV head."""
    return min(spec.num_splits, ceil_div(PROGRAMS_WANTED, bucket * spec.num_kv_heads))


def candidates(spec: AttentionSpec, bucket: int) -> list[KernelConfig]:
    """Keys a tile × warps × stages × programs. All but the last must be one choice for all buckets."""
    return [
        config(warps, stages, BLOCK_KV=block_kv, PROGRAMS=count)
        for block_kv in (16, 32, 64, 128)
        for warps in (2, 4, 8)
        for stages in (3, 5, 7)
        for count in sorted({programs(spec, bucket), min(2 * programs(spec, bucket), spec.num_splits)})
    ]


def launch_attention_decode(
    spec: AttentionSpec,
    config: KernelConfig,
    q: torch.Tensor,  # [T, num_heads * head_dim], any row stride
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,  # [S, max_blocks] int32
    context_lens: torch.Tensor,  # [S] int32, 0 = padding: zeros come out
    sinks: torch.Tensor | None,  # [num_heads] float32
    slopes: torch.Tensor | None,  # [num_heads] float32
    scratch: torch.Tensor,  # [scratch_floats] float32
    out: torch.Tensor,  # [T, num_heads * v_head_dim], any row stride
    *,
    query_start_loc: torch.Tensor | None = None,  # [S + 1] int32
    pdl: bool = False,
) -> list[Launch]:
    """Attend for query s of every sequence s; with query_start_loc for the sequences that have one query."""
    check_optional(spec, sinks, slopes)
    num_seqs = block_tables.shape[0]
    tables = {"block_tables": block_tables, "context_lens": context_lens, "query_start_loc": query_start_loc}
    common = {
        "NUM_SPLITS": spec.num_splits,
        "MIN_TILES": max(spec.split_tokens // config["BLOCK_KV"], 1),
        "BLOCK_KV": config["BLOCK_KV"],
    }
    split = Launch(
        attention_split_kernel,
        (config["PROGRAMS"], spec.num_kv_heads, num_seqs),
        {"q": q, "k_cache": k_cache, "v_cache": v_cache, **tables, "slopes": slopes, "scratch": scratch},
        {
            **spec.constexprs(),
            **common,
            "Q_STRIDE": q.stride(0),
            "TABLE_STRIDE": block_tables.stride(0),
            "BLOCK_M": max(next_power(spec.group), 16),
        },
        config.num_warps,
        config.num_stages,
        pdl,
    )
    reduce = Launch(
        attention_reduce_kernel,
        (num_seqs, spec.num_heads, 1),
        {
            "scratch": scratch,
            "context_lens": context_lens,
            "query_start_loc": query_start_loc,
            "sinks": sinks,
            "out": out,
        },
        {
            **common,
            "OUT_STRIDE": out.stride(0),
            "NUM_HEADS": spec.num_heads,
            "V_HEAD_DIM": spec.v_head_dim,
            "BLOCK_DV": max(next_power(spec.v_head_dim), 16),
            "WINDOW": spec.window,
            "CHUNK": spec.chunk,
            "HAS_SINKS": spec.has_sinks,
        },
        4,
        1,
        pdl,
    )
    return [split, reduce]


@triton.jit
def find_query(seq, context_lens, query_start_loc):
    """The token of sequence `seq` and its number of keys, 0 for one that is not to be attended to here."""
    context_len = tl.load(context_lens + seq)
    if query_start_loc is None:
        token = seq
    else:
        token = tl.load(query_start_loc + seq)
        num_queries = tl.load(query_start_loc + seq + 1) - token
        context_len = tl.where(num_queries == 1, context_len, 0)
    return token.to(tl.int64), context_len


@triton.jit
def plan_splits(
    context_len,
    WINDOW: tl.constexpr, CHUNK: tl.constexpr, NUM_SPLITS: tl.constexpr, MIN_TILES: tl.constexpr,
    BLOCK_KV: tl.constexpr,
):  # fmt: skip
    """(first tile, tile past the last, tiles a split, number of splits) of a sequence."""
    first = first_key(context_len - 1, WINDOW, CHUNK) // BLOCK_KV
    past = tl.cdiv(context_len, BLOCK_KV)
    tiles = tl.maximum(tl.cdiv(past - first, NUM_SPLITS), MIN_TILES)
    return first, past, tiles, tl.cdiv(past - first, tiles)


@triton.jit
def attention_split_kernel(
    q, k_cache, v_cache, block_tables, context_lens, query_start_loc, slopes, scratch,
    Q_STRIDE: tl.constexpr, TABLE_STRIDE: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
    HAS_SLOPES: tl.constexpr,
    GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    NUM_SPLITS: tl.constexpr, MIN_TILES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_KV: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (PROGRAMS, num_kv_heads, S).

    scratch: acc [S, num_heads, NUM_SPLITS, V_HEAD_DIM], then (maximum, total) of each.
    """
    kv_head = tl.program_id(1)
    seq = tl.program_id(2).to(tl.int64)
    token, context_len = find_query(seq, context_lens, query_start_loc)
    first, past, tiles, count = plan_splits(context_len, WINDOW, CHUNK, NUM_SPLITS, MIN_TILES, BLOCK_KV)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if tl.program_id(0) < count:
        rows = tl.arange(0, BLOCK_M)
        heads = kv_head * GROUP + rows
        d = tl.arange(0, BLOCK_D)
        dv = tl.arange(0, BLOCK_DV)
        query = tl.load(
            q + token * Q_STRIDE + heads[:, None] * HEAD_DIM + d[None, :],
            mask=(rows < GROUP)[:, None] & (d < HEAD_DIM)[None, :],
            other=0.0,
        )
        query = as_cached(query, k_cache)
        slope = tl.zeros((BLOCK_M,), tl.float32)
        if HAS_SLOPES:
            slope = tl.load(slopes + heads, mask=rows < GROUP, other=0.0)
        positions = tl.zeros((BLOCK_M,), tl.int32) + (context_len - 1)
        table = block_tables + seq * TABLE_STRIDE
        for split in tl.range(tl.program_id(0), count, tl.num_programs(0)):
            acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
            maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
            total = tl.zeros((BLOCK_M,), tl.float32)
            begin = first + split * tiles
            acc, maximum, total = attend(
                acc, maximum, total, begin, tl.minimum(begin + tiles, past), query, positions, context_len,
                slope, k_cache, v_cache, table, kv_head,
                SCALE, SOFTCAP, WINDOW, CHUNK, HAS_SLOPES, NUM_KV_HEADS, HEAD_DIM, V_HEAD_DIM, BLOCK_SIZE,
                BLOCK_D, BLOCK_DV, BLOCK_KV, True, INTERPRET,
            )  # fmt: skip
            place = (seq * (NUM_KV_HEADS * GROUP) + heads) * NUM_SPLITS + split
            tl.store(
                scratch + place[:, None] * V_HEAD_DIM + dv[None, :],
                acc,
                mask=(rows < GROUP)[:, None] & (dv < V_HEAD_DIM)[None, :],
            )
            place = (
                tl.num_programs(2).to(tl.int64) * (NUM_KV_HEADS * GROUP * NUM_SPLITS * V_HEAD_DIM) + place * 2
            )
            tl.store(scratch + place, maximum, mask=rows < GROUP)
            tl.store(scratch + place + 1, total, mask=rows < GROUP)


@triton.jit
def attention_reduce_kernel(
    scratch, context_lens, query_start_loc, sinks, out,
    OUT_STRIDE: tl.constexpr,
    NUM_HEADS: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_DV: tl.constexpr,
    WINDOW: tl.constexpr, CHUNK: tl.constexpr, HAS_SINKS: tl.constexpr,
    NUM_SPLITS: tl.constexpr, MIN_TILES: tl.constexpr, BLOCK_KV: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (S, num_heads): out[t, h] = Σ_s acc_s e^(m_s − m) / (Σ_s l_s e^(m_s − m) + e^(sink − m))."""
    seq = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    token, context_len = find_query(seq, context_lens, query_start_loc)
    _, _, _, count = plan_splits(context_len, WINDOW, CHUNK, NUM_SPLITS, MIN_TILES, BLOCK_KV)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    split = tl.arange(0, NUM_SPLITS)
    dv = tl.arange(0, BLOCK_DV)
    place = (seq * NUM_HEADS + head) * NUM_SPLITS + split
    written = split < count
    stats = scratch + tl.num_programs(0).to(tl.int64) * (NUM_HEADS * NUM_SPLITS * V_HEAD_DIM) + place * 2
    maxima = tl.load(stats, mask=written, other=float("-inf"))
    totals = tl.load(stats + 1, mask=written, other=0.0)
    maximum = tl.max(maxima, 0)
    if HAS_SINKS:
        sink = tl.load(sinks + head) * LOG2_E
        maximum = tl.maximum(maximum, sink)
    maximum = tl.where(maximum == float("-inf"), 0.0, maximum)  # of a padded sequence
    weights = tl.exp2(maxima - maximum)
    total = tl.sum(totals * weights, 0)
    if HAS_SINKS:
        total += tl.exp2(sink - maximum)
    acc = tl.load(
        scratch + place[:, None] * V_HEAD_DIM + dv[None, :],
        mask=written[:, None] & (dv < V_HEAD_DIM)[None, :],
        other=0.0,
    )
    result = tl.sum(acc * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    width = V_HEAD_DIM
    if query_start_loc is not None:  # the other sequences' rows are not this kernel's
        width = tl.where(context_len > 0, V_HEAD_DIM, 0)
    pointers = out + token * OUT_STRIDE + head * V_HEAD_DIM + dv
    tl.store(pointers, result.to(out.dtype.element_ty), mask=dv < width)
