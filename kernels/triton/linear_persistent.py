"""The linear for many tokens: programs that walk several tiles, and read by tensor descriptors.

From sm_90 on a descriptor's tile is one bulk copy, for which no thread computes an address; for older chips
Triton makes pointers of it. Tiles, slices and the order of sums are those of linear.py's own kernel, so it
gives the same bits. A descriptor takes 128 bytes of a scratch that the launcher gives; it is written after
the kernel before has ended, so all launches share one.
"""

import triton
import triton.language as tl

from pagedc.kernels.triton.device import dot, let_next_start, wait_for_inputs
from pagedc.kernels.triton.linear_tile import finish, place_tile


@triton.jit(do_not_specialize=["num_tokens"])
def linear_persistent_kernel(
    x, codes, scales, out, e0, e1, e2, e3, e4, e5, num_tokens,
    X_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    SLICE_K: tl.constexpr, NUM_SLICES: tl.constexpr, HAS_ROW_SCALE: tl.constexpr, EPILOGUE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (programs)."""
    wait_for_inputs(PDL)
    let_next_start(PDL)
    weights = tl.make_tensor_descriptor(codes, [N, K], [K, 1], [BLOCK_N, BLOCK_K])
    inputs = tl.make_tensor_descriptor(x, [num_tokens, K], [X_STRIDE, 1], [BLOCK_T, BLOCK_K])
    num_tiles = tl.cdiv(N, BLOCK_N) * tl.cdiv(num_tokens, BLOCK_T)
    for tile in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0), flatten=NUM_SLICES == 1):
        row_tile, token_tile = place_tile(tile, num_tokens, N, BLOCK_N, BLOCK_T)
        first_row, first_token = row_tile * BLOCK_N, token_tile * BLOCK_T
        if NUM_SLICES == 1:
            total = add_slice(
                weights, inputs, first_row, first_token, 0, K, BLOCK_N, BLOCK_T, BLOCK_K, INTERPRET
            )
        else:
            total = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
            for first in tl.range(0, K, SLICE_K):
                total += add_slice(
                    weights, inputs, first_row, first_token, first, tl.minimum(first + SLICE_K, K),
                    BLOCK_N, BLOCK_T, BLOCK_K, INTERPRET,
                )  # fmt: skip
        rows = first_row + tl.arange(0, BLOCK_N)
        tokens = first_token + tl.arange(0, BLOCK_T)
        finish(
            total, scales, row_tile, rows, rows < N, tokens, tokens < num_tokens, out,
            e0, e1, e2, e3, e4, e5, OUT_STRIDE, HAS_ROW_SCALE, EPILOGUE,
        )  # fmt: skip


@triton.jit
def add_slice(
    weights, inputs, first_row, first_token, first, past,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """The sums of a tile over k = first … past."""
    acc = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    for first_k in tl.range(first, past, BLOCK_K):
        codes = weights.load([first_row, first_k])
        tokens = inputs.load([first_token, first_k])
        if codes.dtype.primitive_bitwidth >= 16:
            tokens = tokens.to(codes.dtype)
        else:
            codes = codes.to(tokens.dtype)
        acc = dot(codes, tl.trans(tokens), acc, INTERPRET)
    return acc
