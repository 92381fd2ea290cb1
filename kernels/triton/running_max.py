"""m_t = max(m_{t-1} + fade_t, x_t) of each channel: the largest of what came before, which fades, and what
comes.

Recurrences of exponentials keep their sums relative to it. State of a sequence: m, [channels].
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import Launch, ceil_div
from pagedc.kernels.triton.state import StateInputs, run_of_sequence, whole_vectors

BLOCK = 128  # channels of a program


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMaxSpec:
    """What is compiled in."""

    channels: int
    initial: float  # m before a sequence's first token

    @property
    def state_floats(self) -> int:
        """Of one sequence."""
        return whole_vectors(self.channels)


def launch_running_max(
    spec: RunningMaxSpec,
    fade: torch.Tensor,  # [T, channels], any row stride, 0 where all tokens have the same
    x: torch.Tensor,  # [T, channels], any row stride
    inputs: StateInputs,
    out: torch.Tensor,  # [T, channels], any row stride
    *,
    pdl: bool = False,
) -> list[Launch]:
    """One launch, for any number of tokens of each sequence. Not tuned: 128 channels a program."""
    return [
        Launch(
            running_max_kernel,
            (ceil_div(spec.channels, BLOCK), inputs.num_seqs, 1),
            {"fade": fade, "x": x, **inputs.args(), "out": out},
            {
                "FADE_STRIDE": fade.stride(0),
                "X_STRIDE": x.stride(0),
                "OUT_STRIDE": out.stride(0),
                "STATE_SIZE": spec.state_floats,
                "CHANNELS": spec.channels,
                "INITIAL": spec.initial,
                "BLOCK": BLOCK,
            },
            4,
            1,
            pdl,
        )
    ]


@triton.jit
def running_max_kernel(
    fade, x, state, state_slots, context_lens, query_start_loc, out,
    FADE_STRIDE: tl.constexpr, X_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, STATE_SIZE: tl.constexpr,
    CHANNELS: tl.constexpr, INITIAL: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of channels, S)."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < CHANNELS
    begin, count, before, slot = run_of_sequence(tl.program_id(1), state_slots, context_lens, query_start_loc)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if count > 0:
        place = state + slot * STATE_SIZE + columns
        m = tl.full((BLOCK,), INITIAL, tl.float32)
        if before > 0:
            m = tl.load(place, mask=is_column, other=0.0)
        for t in tl.range(0, count, num_stages=3):
            token = begin + t
            faded = m + tl.load(fade + token * FADE_STRIDE + columns, mask=is_column, other=0.0).to(
                tl.float32
            )
            m = tl.maximum(
                faded, tl.load(x + token * X_STRIDE + columns, mask=is_column, other=0.0).to(tl.float32)
            )
            tl.store(out + token * OUT_STRIDE + columns, m.to(out.dtype.element_ty), mask=is_column)
        tl.debug_barrier()  # all threads have read it
        tl.store(place, m, mask=is_column)
