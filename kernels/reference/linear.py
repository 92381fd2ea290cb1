"""linear, embedding and grouped_linear, in plain numpy."""

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


def to_bfloat16(x: Float32Array) -> npt.NDArray[np.uint16]:
    """x rounded to nearest even, as the upper halves of float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def linear(x: Float32Array, weights: Float32Array) -> Float32Array:
    """out[t, n] = Σ_k x[t, k] · weights[n, k], summed in float64. x [T, K], weights [N, K], out [T, N]."""
    return (x.astype(np.float64) @ weights.astype(np.float64).T).astype(np.float32)


def embedding(ids: npt.NDArray[np.int32], weights: Float32Array) -> Float32Array:
    """weights[ids]. ids [T], weights [N, K], out [T, K]."""
    return weights[ids]


def grouped_linear(x: Float32Array, expert_ids: npt.NDArray[np.int32], weights: Float32Array) -> Float32Array:
    """out[t, s] = weights[expert_ids[t, s]] · x[t, s].

    x [T, top_k, K], or [T, 1, K] where a token's slots share it; expert_ids [T, top_k]; weights [E, N, K];
    out [T, top_k, N].
    """
    num_tokens, top_k = expert_ids.shape
    rows = np.broadcast_to(x, (num_tokens, top_k, x.shape[2]))
    out = np.empty((num_tokens, top_k, weights.shape[1]), np.float32)
    for token in range(num_tokens):
        for slot in range(top_k):
            out[token, slot] = linear(rows[token, slot, None], weights[expert_ids[token, slot]])[0]
    return out
