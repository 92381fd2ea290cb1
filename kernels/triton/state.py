"""State that a sequence carries from token to token: where it lies, and what of a step belongs to it.

A call's state is [slots, floats of one sequence] in float32, slot by slot. A sequence finds its slot on the
device, and its state is 0, or what the kernel says, before its first token.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.launch import ceil_div

VECTOR = 16  # floats; a sequence's state is whole ones


def whole_vectors(size: int) -> int:
    """`size` rounded up."""
    return ceil_div(size, VECTOR) * VECTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class StateInputs:
    """The state of a call, and what a step says of each sequence."""

    state: torch.Tensor  # [slots, floats] float32
    slots: torch.Tensor  # [S] int32
    context_lens: torch.Tensor  # [S] int32, this step's tokens included
    query_start_loc: torch.Tensor  # [S + 1] int32; a sequence without tokens is padding

    def args(self) -> dict[str, torch.Tensor]:
        """As kernels call them."""
        return {
            "state": self.state,
            "state_slots": self.slots,
            "context_lens": self.context_lens,
            "query_start_loc": self.query_start_loc,
        }

    @property
    def num_seqs(self) -> int:
        """S."""
        return int(self.slots.shape[0])


@triton.jit
def run_of_sequence(seq, state_slots, context_lens, query_start_loc):
    """(first token, number of tokens, how many came in earlier steps, slot as int64)."""
    begin = tl.load(query_start_loc + seq)
    count = tl.load(query_start_loc + seq + 1) - begin
    before = tl.load(context_lens + seq) - count
    return begin.to(tl.int64), count, before, tl.load(state_slots + seq).to(tl.int64)
