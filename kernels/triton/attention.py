"""What paged attention is, and the walk over keys that its two kernels share.

out[t, h] = Σ_j softmax_j(score(t, j)) · v[j], over the keys j of t's sequence, t.pos − window < j ≤ t.pos or
those of t's chunk up to t;
score = scale · q[t, h] · k[j], with softcap c as c · tanh(score / c), then + slope[h] · (j − t.pos) of ALiBi.
A head's sink takes part in the softmax's sum and gives no value. Scores are kept in base 2: times log2 e.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import dot
from pagedc.kernels.triton.kv_cache import CacheSpec, place_in_cache
from pagedc.kernels.triton.launch import next_power

LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec(CacheSpec):
    """What is compiled in.

    split_tokens and num_splits say how a decode's keys are cut: into at most num_splits runs of equal length,
    of split_tokens at least. As they decide the order of sums, they are the model's and not a bucket's.
    """

    num_heads: int
    scale: float
    softcap: float = 0.0  # 0 = none
    window: int = 0  # 0 = all keys up to the query's own
    chunk: int = 0  # the token at position p sees [p - p % chunk, p]; 0 = no chunks
    has_sinks: bool = False
    has_slopes: bool = False
    split_tokens: int = 128
    num_splits: int = 32

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads

    def constexprs(self) -> dict[str, Any]:
        """Those that both kernels have."""
        return {
            "SCALE": self.scale,
            "SOFTCAP": self.softcap,
            "WINDOW": self.window,
            "CHUNK": self.chunk,
            "HAS_SLOPES": self.has_slopes,
            "GROUP": self.group,
            "NUM_KV_HEADS": self.num_kv_heads,
            "HEAD_DIM": self.head_dim,
            "V_HEAD_DIM": self.v_head_dim,
            "BLOCK_SIZE": self.block_size,
            "BLOCK_D": max(next_power(self.head_dim), 16),
            "BLOCK_DV": max(next_power(self.v_head_dim), 16),
        }


def check_optional(spec: AttentionSpec, sinks: torch.Tensor | None, slopes: torch.Tensor | None) -> None:
    """ValueError unless sinks and slopes are given exactly where the spec has them."""
    for name, has, given in (("sinks", spec.has_sinks, sinks), ("slopes", spec.has_slopes, slopes)):
        if has != (given is not None):
            raise ValueError(f"{name} {'are missing' if has else 'are given'}: the spec says otherwise")


@triton.jit
def first_key(positions, WINDOW: tl.constexpr, CHUNK: tl.constexpr):
    """The first key that queries at these positions see."""
    if WINDOW > 0:
        return tl.maximum(positions - WINDOW + 1, 0)
    elif CHUNK > 0:
        return tl.maximum(positions // CHUNK * CHUNK, 0)
    else:
        return positions * 0


@triton.jit
def load_tile(
    cache, table, tile, kv_head, visible,
    NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_KV: tl.constexpr, BLOCK_WIDTH: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Rows tile · BLOCK_KV … of the sequence's K or V, [BLOCK_KV, BLOCK_WIDTH]; zeros where not visible."""
    rows = tl.arange(0, BLOCK_KV)
    d = tl.arange(0, BLOCK_WIDTH)
    if BLOCK_SIZE % BLOCK_KV == 0:  # one block: one run of memory
        block = tl.load(table + tile * BLOCK_KV // BLOCK_SIZE).to(tl.int64)
        first = place_in_cache(block, tile * BLOCK_KV % BLOCK_SIZE, kv_head, NUM_KV_HEADS, BLOCK_SIZE, WIDTH)
        pointers = cache + first + (rows * WIDTH)[:, None] + d[None, :]
    else:
        positions = tile * BLOCK_KV + rows
        if MASKED:
            blocks = tl.load(table + positions // BLOCK_SIZE, mask=visible, other=0).to(tl.int64)
        else:
            blocks = tl.load(table + positions // BLOCK_SIZE).to(tl.int64)
        firsts = place_in_cache(blocks, positions % BLOCK_SIZE, kv_head, NUM_KV_HEADS, BLOCK_SIZE, WIDTH)
        pointers = cache + firsts[:, None] + d[None, :]
    if MASKED:
        if WIDTH == BLOCK_WIDTH:
            return tl.load(pointers, mask=visible[:, None], other=0.0)
        else:
            return tl.load(pointers, mask=visible[:, None] & (d < WIDTH)[None, :], other=0.0)
    elif WIDTH == BLOCK_WIDTH:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=(d < WIDTH)[None, :], other=0.0)


@triton.jit
def as_cached(query, cache):
    """The query as the type that keys are multiplied in: the cache's own, bfloat16 for one of 8 bits."""
    if cache.dtype.element_ty.primitive_bitwidth > 8:
        return query.to(cache.dtype.element_ty)
    else:
        return query.to(tl.bfloat16)


@triton.jit
def attend(
    acc, maximum, total, first, past, query, positions, context_len, slope, k_cache, v_cache, table, kv_head,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
    HAS_SLOPES: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_KV: tl.constexpr, MASKED: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """(acc, maximum, total) after tiles [first, past) of keys, for `query` [M, BLOCK_D] at `positions` [M].

    Without MASKED every row sees every key of the tiles.
    """
    for tile in tl.range(first, past):
        keys_at = tile * BLOCK_KV + tl.arange(0, BLOCK_KV)
        exists = keys_at < context_len
        keys = load_tile(
            k_cache, table, tile, kv_head, exists,
            NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM, BLOCK_KV, BLOCK_D, MASKED,
        ).to(query.dtype)  # fmt: skip
        values = load_tile(
            v_cache, table, tile, kv_head, exists,
            NUM_KV_HEADS, BLOCK_SIZE, V_HEAD_DIM, BLOCK_KV, BLOCK_DV, MASKED,
        ).to(query.dtype)  # fmt: skip
        zeros = tl.zeros((query.shape[0], BLOCK_KV), tl.float32)
        scores = dot(query, tl.trans(keys), zeros, INTERPRET)
        if SOFTCAP > 0:
            # tanh x = 1 − 2 / (1 + e^2x)
            e = tl.exp2(scores * (2 * SCALE / SOFTCAP * LOG2_E))
            scores = (SOFTCAP * LOG2_E) * (1 - 2 / (1 + e))
        else:
            scores = scores * (SCALE * LOG2_E)
        if HAS_SLOPES:
            scores += (slope * LOG2_E)[:, None] * (keys_at[None, :] - positions[:, None]).to(tl.float32)
        if MASKED:
            visible = keys_at[None, :] <= positions[:, None]
            if WINDOW > 0 or CHUNK > 0:
                visible = visible & (keys_at[None, :] >= first_key(positions, WINDOW, CHUNK)[:, None])
            scores = tl.where(visible & exists[None, :], scores, float("-inf"))
        highest = tl.maximum(maximum, tl.max(scores, 1))
        shift = highest
        if MASKED and (WINDOW > 0 or CHUNK > 0):  # a row may see nothing of the tiles so far
            shift = tl.where(highest == float("-inf"), 0.0, highest)
        rescale = tl.exp2(maximum - shift)
        weights = tl.exp2(scores - shift[:, None])
        total = total * rescale + tl.sum(weights, 1)
        acc = dot(weights.to(values.dtype), values, acc * rescale[:, None], INTERPRET)
        maximum = highest
    return acc, maximum, total
