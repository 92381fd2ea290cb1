"""The product of a tile of weights and a tile of tokens, which dense and grouped linears share."""

import triton
import triton.language as tl

from pagedc.kernels.triton.device import dot
from pagedc.kernels.triton.weights import RUN, scale_codes


@triton.jit
def load_x(x, offsets, token_mask, ks, K: tl.constexpr, EVEN_K: tl.constexpr):
    """x at tokens' offsets [T] and ks [K], transposed: [K, T]; zeros outside."""
    pointers = x + offsets[:, None] + ks[None, :]
    if EVEN_K:
        tile = tl.load(pointers, mask=token_mask[:, None], other=0.0)
    else:
        tile = tl.load(pointers, mask=token_mask[:, None] & (ks < K)[None, :], other=0.0)
    return tl.trans(tile)


@triton.jit
def load_codes(codes, offsets, row_mask, ks, K: tl.constexpr, EVEN: tl.constexpr, EVICTION: tl.constexpr):
    """Codes of rows [N] and columns ks [K]; zeros outside."""
    pointers = codes + offsets[:, None] + ks[None, :]
    if EVEN:
        return tl.load(pointers, eviction_policy=EVICTION)
    else:
        return tl.load(
            pointers, mask=row_mask[:, None] & (ks < K)[None, :], other=0, eviction_policy=EVICTION
        )


@triton.jit
def add_products(
    acc, x, x_offsets, token_mask, codes, scales, minimums, rows, row_mask, first_k,
    K: tl.constexpr, BITS: tl.constexpr, GROUP_SIZE: tl.constexpr, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr,
    BLOCK_K: tl.constexpr, EVICTION: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """acc [N, T] + W[rows, first_k : first_k + BLOCK_K] · x[…]ᵀ.

    Codes with groups are scaled in float32 and rounded once to x's type; without, they are exact in it.
    """
    if BITS == 4:
        j = tl.arange(0, BLOCK_K // 2)
        ks = first_k + j // (RUN // 2) * RUN + j % (RUN // 2)
        columns = first_k // 2 + j
        packed = load_codes(
            codes, rows * (K // 2), row_mask, columns, K // 2, EVEN_N and EVEN_K, EVICTION
        )  # fmt: skip
        ZERO: tl.constexpr = 8.0 if minimums is None else 0.0
        low = (packed & 15).to(tl.float32) - ZERO
        high = (packed >> 4).to(tl.float32) - ZERO
        low = scale_codes(low, scales, minimums, rows, first_k, row_mask, K, GROUP_SIZE, 2, BLOCK_K)
        high = scale_codes(high, scales, minimums, rows, first_k, row_mask, K, GROUP_SIZE, 2, BLOCK_K)
        dtype = x.dtype.element_ty
        acc = dot(low.to(dtype), load_x(x, x_offsets, token_mask, ks, K, EVEN_K), acc, INTERPRET)
        ks += RUN // 2
        return dot(high.to(dtype), load_x(x, x_offsets, token_mask, ks, K, EVEN_K), acc, INTERPRET)
    else:
        ks = first_k + tl.arange(0, BLOCK_K)
        weights = load_codes(codes, rows * K, row_mask, ks, K, EVEN_N and EVEN_K, EVICTION)
        tokens = load_x(x, x_offsets, token_mask, ks, K, EVEN_K)
        if BITS >= 16:
            return dot(weights, tokens.to(weights.dtype), acc, INTERPRET)
        else:
            if GROUP_SIZE > 0:
                weights = scale_codes(
                    weights.to(tl.float32), scales, minimums, rows, first_k, row_mask,
                    K, GROUP_SIZE, 1, BLOCK_K,
                )  # fmt: skip
            return dot(weights.to(tokens.dtype), tokens, acc, INTERPRET)
