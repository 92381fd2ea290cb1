"""ids[t] = chosen[-1 - ids[t]] where ids[t] < 0: a step that was prepared before the last one was done names
tokens by the row that chose them.
"""

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import Launch


def launch_known_tokens(
    ids: torch.Tensor,  # [T] int32, changed in place
    chosen: torch.Tensor,  # int32, by the step before: one of each of its rows
    *,
    pdl: bool = False,
) -> list[Launch]:
    """One program a token."""
    args = {"ids": ids, "chosen": chosen}
    return [Launch(known_tokens_kernel, (ids.shape[0], 1, 1), args, {}, 1, 1, pdl)]


@triton.jit
def known_tokens_kernel(ids, chosen, PDL: tl.constexpr, INTERPRET: tl.constexpr):
    """Grid (T,)."""
    token = tl.program_id(0).to(tl.int64)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    token_id = tl.load(ids + token)
    if token_id < 0:
        tl.store(ids + token, tl.load(chosen - 1 - token_id))
