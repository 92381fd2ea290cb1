"""Attention of one sequence in numpy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_SIZE = 16

Float = NDArray[np.floating]
Int = NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """What an attention is; `AttentionConfig` of kernels/cpu/attention.h has the same fields."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    scale: float
    softcap: float = 0.0  # scores become softcap * tanh(scores / softcap); 0 = none
    window: int = 0  # the token at position p sees (p - window, p]; 0 = all up to p
    chunk: int = 0  # the token at position p sees [p - p % chunk, p]; 0 = no chunks


def attention(
    config: AttentionConfig,
    query: Float,  # [num_queries, num_heads, head_dim]
    keys: Float,  # [num_keys, num_kv_heads, head_dim], at positions 0, 1, …
    values: Float,  # [num_keys, num_kv_heads, v_head_dim]
    positions: Int,  # [num_queries]
    sinks: Float | None = None,  # [num_heads] logits that take weight and give no value
    slopes: Float | None = None,  # [num_heads] of ALiBi
    biases: Float | None = None,  # [num_queries, num_heads, extent] of each distance below extent
) -> NDArray[np.float64]:
    """Return softmax(scale (query · keys + biases)) values of one sequence.

    It is [num_queries, num_heads, v_head_dim].
    """
    group = config.num_heads // config.num_kv_heads
    keys, values = (np.repeat(x.astype(np.float64), group, axis=1) for x in (keys, values))
    scores = np.einsum("qhd,khd->hqk", query.astype(np.float64), keys)
    if biases is not None:
        back, extent = positions[:, None] - np.arange(len(keys)), biases.shape[2]
        near = np.take_along_axis(biases.swapaxes(0, 1), np.clip(back, 0, extent - 1)[None], 2)
        scores = scores + np.where(back < extent, near, 0.0)
    scores = scores * config.scale
    if config.softcap:
        scores = config.softcap * np.tanh(scores / config.softcap)
    distance = np.arange(len(keys)) - positions[:, None]
    if slopes is not None:
        scores = scores + slopes[:, None, None] * distance
    visible = (distance <= 0) & (distance > -config.window if config.window else True)
    if config.chunk:
        visible &= positions[:, None] // config.chunk == np.arange(len(keys)) // config.chunk
    scores = np.where(visible, scores, -np.inf)
    maximum = scores.max(axis=2, keepdims=True)
    if sinks is not None:
        maximum = np.maximum(maximum, sinks[:, None, None])
    weights = np.exp(scores - maximum)
    total = weights.sum(axis=2, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[:, None, None] - maximum)
    out: NDArray[np.float64] = np.einsum("hqk,khd->qhd", weights / total, values)
    return out
