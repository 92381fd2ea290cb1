"""Which tile of a linear a program computes, and what becomes of its sums: for both kernels of linear.py."""

import triton
import triton.language as tl


@triton.jit
def place_tile(tile, num_tokens, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr):
    """(row tile, token tile): 8 row tiles at a time for all tokens, so that both stay in the cache."""
    ROW_TILES: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    per_band = 8 * tl.cdiv(num_tokens, BLOCK_T)
    first = tile // per_band * 8
    height = tl.minimum(ROW_TILES - first, 8)
    return first + tile % per_band % height, tile % per_band // height


@triton.jit
def finish(
    total, scales, row_tile, rows, row_mask, tokens, token_mask, out, e0, e1, e2, e3, e4, e5,
    OUT_STRIDE: tl.constexpr, HAS_ROW_SCALE: tl.constexpr, EPILOGUE: tl.constexpr,
):  # fmt: skip
    """Hand the transposed sums to the epilogue, or store them."""
    if HAS_ROW_SCALE:
        total *= tl.load(scales + rows, mask=row_mask, other=0.0)[:, None]
    acc = tl.trans(total)
    wide_tokens = tokens.to(tl.int64)
    if EPILOGUE is None:
        mask = token_mask[:, None] & row_mask[None, :]
        pointers = out + wide_tokens[:, None] * OUT_STRIDE + rows[None, :]
        tl.store(pointers, acc.to(out.dtype.element_ty), mask=mask)
    else:
        EPILOGUE(acc, wide_tokens, token_mask, row_tile * acc.shape[1], out, e0, e1, e2, e3, e4, e5)


@triton.jit
def split_stripes(acc):
    """A tile [T, N] of 16 columns of each half in turn, as the halves' tiles [T, N / 2]."""
    stripes = tl.reshape(acc, (acc.shape[0], acc.shape[1] // 32, 2, 16))
    first, second = tl.split(tl.permute(stripes, (0, 1, 3, 2)))
    shape: tl.constexpr = (acc.shape[0], acc.shape[1] // 2)
    return tl.reshape(first, shape), tl.reshape(second, shape)
