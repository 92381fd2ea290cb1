"""Paged attention of any batch: ragged runs of queries over what their sequences have in the cache.

A tile is a run of queries of one sequence with all query heads of a KV head, so that the group reads the keys
once. Tiles of keys start at multiples of BLOCK_KV of the sequence: an output's bits depend neither on how a
prompt was cut into chunks nor on the batch.
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


def defaults(spec: AttentionSpec, bucket: int) -> KernelConfig:
    """Not tuned: 128 rows of query heads by 64 keys; half as many for wide heads, fewer for float32."""
    rows_at_least = next_power(spec.group)  # one query
    if spec.kv_dtype == "float32":
        return config(8, 2, BLOCK_M=max(16, rows_at_least), BLOCK_KV=16)
    if spec.head_dim > 128:
        return config(8, 2, BLOCK_M=max(64, rows_at_least), BLOCK_KV=32)
    return config(8, 3, BLOCK_M=max(128, rows_at_least), BLOCK_KV=64)


def candidates(spec: AttentionSpec, bucket: int) -> list[KernelConfig]:
    """Rows × keys a tile × warps × stages; one choice for all buckets."""
    return [
        config(warps, stages, BLOCK_M=block_m, BLOCK_KV=block_kv)
        for block_m in (32, 64, 128)
        for block_kv in (16, 32, 64, 128)
        for warps in (4, 8)
        for stages in (2, 3, 4)
        if block_m >= spec.group
    ]


def launch_attention_prefill(
    spec: AttentionSpec,
    config: KernelConfig,
    q: torch.Tensor,  # [T, num_heads * head_dim], any row stride
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,  # [S, max_blocks] int32
    context_lens: torch.Tensor,  # [S] int32, this step's tokens included
    query_start_loc: torch.Tensor,  # [S + 1] int32
    sinks: torch.Tensor | None,  # [num_heads] float32
    slopes: torch.Tensor | None,  # [num_heads] float32
    out: torch.Tensor,  # [T, num_heads * v_head_dim], any row stride
    *,
    skip_decode: bool,  # leave out the sequences that have one query
    pdl: bool = False,
) -> list[Launch]:
    """Attend for every query. The grid is the most tiles that T tokens of S sequences can make."""
    check_optional(spec, sinks, slopes)
    num_seqs = block_tables.shape[0]
    block_q = config["BLOCK_M"] // spec.group
    return [
        Launch(
            attention_prefill_kernel,
            (ceil_div(q.shape[0], block_q) + num_seqs, spec.num_kv_heads, 1),
            {
                "q": q,
                "k_cache": k_cache,
                "v_cache": v_cache,
                "block_tables": block_tables,
                "context_lens": context_lens,
                "query_start_loc": query_start_loc,
                "sinks": sinks,
                "slopes": slopes,
                "out": out,
                "num_seqs": num_seqs,
            },
            {
                **spec.constexprs(),
                "Q_STRIDE": q.stride(0),
                "OUT_STRIDE": out.stride(0),
                "TABLE_STRIDE": block_tables.stride(0),
                "HAS_SINKS": spec.has_sinks,
                "SKIP_DECODE": skip_decode,
                "BLOCK_Q": block_q,
                "BLOCK_S": max(next_power(num_seqs), 16),
                "BLOCK_M": config["BLOCK_M"],
                "BLOCK_KV": config["BLOCK_KV"],
            },
            config.num_warps,
            config.num_stages,
            pdl,
        )
    ]


@triton.jit
def find_sequence(tile, query_start_loc, num_seqs, BLOCK_Q: tl.constexpr, BLOCK_S: tl.constexpr):
    """The sequence of a tile: those of sequence s start at query_start_loc[s] // BLOCK_Q + s."""
    s = tl.arange(0, BLOCK_S)
    starts = tl.load(query_start_loc + s, mask=s < num_seqs, other=0)
    before = (s < num_seqs) & (starts // BLOCK_Q + s <= tile)
    return tl.sum(before.to(tl.int32), 0) - 1


@triton.jit(do_not_specialize=["num_seqs"])
def attention_prefill_kernel(
    q, k_cache, v_cache, block_tables, context_lens, query_start_loc, sinks, slopes, out, num_seqs,
    Q_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, TABLE_STRIDE: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
    HAS_SINKS: tl.constexpr, HAS_SLOPES: tl.constexpr, SKIP_DECODE: tl.constexpr,
    GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_KV: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, num_kv_heads); row = query · GROUP + head. The last tiles, with most keys, go first."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    seq = find_sequence(tile, query_start_loc, num_seqs, BLOCK_Q, BLOCK_S)
    start = tl.load(query_start_loc + seq)
    num_queries = tl.load(query_start_loc + seq + 1) - start
    first_query = (tile - (start // BLOCK_Q + seq)) * BLOCK_Q
    context_len = tl.load(context_lens + seq)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    is_mine = first_query < num_queries
    if SKIP_DECODE:
        is_mine = is_mine & (num_queries > 1)
    if is_mine:
        rows = tl.arange(0, BLOCK_M)
        queries = first_query + rows // GROUP
        heads = kv_head * GROUP + rows % GROUP
        valid = (rows < BLOCK_Q * GROUP) & (queries < num_queries)
        tokens = (start + queries).to(tl.int64)
        d = tl.arange(0, BLOCK_D)
        dv = tl.arange(0, BLOCK_DV)
        query = tl.load(
            q + tokens[:, None] * Q_STRIDE + (heads * HEAD_DIM)[:, None] + d[None, :],
            mask=valid[:, None] & (d < HEAD_DIM)[None, :],
            other=0.0,
        )
        query = as_cached(query, k_cache)
        slope = tl.zeros((BLOCK_M,), tl.float32)
        if HAS_SLOPES:
            slope = tl.load(slopes + heads)
        positions = context_len - num_queries + queries
        first_position = context_len - num_queries + first_query
        last_position = tl.minimum(first_position + BLOCK_Q, context_len) - 1
        table = block_tables + seq.to(tl.int64) * TABLE_STRIDE

        # Tiles [first, whole_first) and [whole_past, past) are seen in part.
        first = 0
        whole_first = 0
        past = last_position // BLOCK_KV + 1
        whole_past = (first_position + 1) // BLOCK_KV
        if WINDOW > 0 or CHUNK > 0:
            first = first_key(first_position, WINDOW, CHUNK) // BLOCK_KV
            whole_first = tl.minimum(tl.cdiv(first_key(last_position, WINDOW, CHUNK), BLOCK_KV), past)
            whole_past = tl.maximum(whole_past, whole_first)
        acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
        maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        if WINDOW > 0 or CHUNK > 0:
            acc, maximum, total = attend(
                acc, maximum, total, first, whole_first, query, positions, context_len, slope,
                k_cache, v_cache, table, kv_head,
                SCALE, SOFTCAP, WINDOW, CHUNK, HAS_SLOPES, NUM_KV_HEADS, HEAD_DIM, V_HEAD_DIM, BLOCK_SIZE,
                BLOCK_D, BLOCK_DV, BLOCK_KV, True, INTERPRET,
            )  # fmt: skip
        acc, maximum, total = attend(
            acc, maximum, total, whole_first, whole_past, query, positions, context_len, slope,
            k_cache, v_cache, table, kv_head,
            SCALE, SOFTCAP, WINDOW, CHUNK, HAS_SLOPES, NUM_KV_HEADS, HEAD_DIM, V_HEAD_DIM, BLOCK_SIZE,
            BLOCK_D, BLOCK_DV, BLOCK_KV, False, INTERPRET,
        )  # fmt: skip
        acc, maximum, total = attend(
            acc, maximum, total, whole_past, past, query, positions, context_len, slope,
            k_cache, v_cache, table, kv_head,
            SCALE, SOFTCAP, WINDOW, CHUNK, HAS_SLOPES, NUM_KV_HEADS, HEAD_DIM, V_HEAD_DIM, BLOCK_SIZE,
            BLOCK_D, BLOCK_DV, BLOCK_KV, True, INTERPRET,
        )  # fmt: skip
        if HAS_SINKS:
            sink = tl.load(sinks + heads) * LOG2_E
            highest = tl.maximum(maximum, sink)
            rescale = tl.exp2(maximum - highest)
            acc *= rescale[:, None]
            total = total * rescale + tl.exp2(sink - highest)
        total = tl.where(total > 0, total, 1.0)  # of rows that are no query
        tl.store(
            out + tokens[:, None] * OUT_STRIDE + (heads * V_HEAD_DIM)[:, None] + dv[None, :],
            (acc / total[:, None]).to(out.dtype.element_ty),
            mask=valid[:, None] & (dv < V_HEAD_DIM)[None, :],
        )
