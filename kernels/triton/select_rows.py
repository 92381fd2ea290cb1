"""out[r] = x[rows[r]]: the tokens whose logits are wanted. x [T, width] → out [R, width], any dtype."""

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import Launch, next_power

MAX_BLOCK = 4096


def launch_select_rows(
    x: torch.Tensor,  # [T, width]
    rows: torch.Tensor,  # [R] int32
    out: torch.Tensor,  # [R, width]
    *,
    pdl: bool = False,
) -> list[Launch]:
    """One program a row."""
    width = x.shape[1]
    block = min(next_power(width), MAX_BLOCK)
    constexprs = {"X_STRIDE": x.stride(0), "WIDTH": width, "BLOCK": block}
    args = {"x": x, "rows": rows, "out": out}
    return [Launch(select_rows_kernel, (rows.shape[0], 1, 1), args, constexprs, 4, 1, pdl)]


@triton.jit
def select_rows_kernel(
    x, rows, out,
    X_STRIDE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (R,)."""
    wait_for_inputs(PDL)
    let_next_start(PDL)
    row = tl.program_id(0).to(tl.int64)
    source = tl.load(rows + row).to(tl.int64)
    for start in range(0, WIDTH, BLOCK):
        i = start + tl.arange(0, BLOCK)
        values = tl.load(x + source * X_STRIDE + i, mask=i < WIDTH)
        tl.store(out + row * WIDTH + i, values, mask=i < WIDTH)
