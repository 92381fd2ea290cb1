"""A linear recurrence over the tokens of one sequence, in numpy."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]


def linear_recurrence(
    query: Float,  # [T, num_key_heads, key_dim]
    key: Float,  # [T, num_key_heads, key_dim]
    value: Float,  # [T, num_heads, value_dim]
    decay: Float,  # [T, num_heads, 1 or key_dim, 1 or value_dim]
    state: Float,  # [num_heads, key_dim, value_dim]
    rate: Float | None = None,  # [num_heads, key_dim, value_dim]: the decay is exp(decay · rate)
    beta: Float | None = None,  # [T, num_heads]: the delta rule
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """S = decay ∘ S + key valueᵀ, out = Sᵀ query, token by token → out [T, num_heads, value_dim], S.

    Under the delta rule the value is beta (value - Sᵀ key), S being decayed already.
    """
    group = value.shape[1] // key.shape[1]
    query, key = (np.repeat(x.astype(np.float64), group, axis=1) for x in (query, key))
    matrix: NDArray[np.float64] = state.astype(np.float64)
    out = np.zeros(value.shape)
    for t in range(len(value)):
        matrix = matrix * (decay[t] if rate is None else np.exp(decay[t].astype(np.float64) * rate))
        update = value[t].astype(np.float64)
        if beta is not None:
            update = beta[t][:, None] * (update - np.einsum("hkv,hk->hv", matrix, key[t]))
        matrix = matrix + key[t][:, :, None] * update[:, None, :]
        out[t] = np.einsum("hkv,hk->hv", matrix, query[t])
    return out, matrix
