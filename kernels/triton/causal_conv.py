"""out[t, c] = Σ_j weight[j, c] · x[t - (TAPS - 1) + j, c]: a convolution along each sequence, by channel.

State of a sequence: its last TAPS - 1 inputs, [TAPS - 1, channels], the oldest first. A program computes a
tile of tokens of one sequence; only a sequence's first tile touches its state, since the others find their
inputs in x. Every output is the same sum of the same terms, however a prompt is cut into steps.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.attention_prefill import find_sequence
from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import KernelConfig, Launch, ceil_div, config, next_power
from pagedc.kernels.triton.state import StateInputs, run_of_sequence, whole_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvSpec:
    """What is compiled in."""

    channels: int
    taps: int

    @property
    def state_floats(self) -> int:
        """Of one sequence."""
        return whole_vectors((self.taps - 1) * self.channels)


def defaults(spec: ConvSpec, *, decodes: bool) -> KernelConfig:
    """Not tuned: 32 tokens by 128 channels; of a decode 256 channels."""
    if decodes:
        return config(4, 1, BLOCK_T=1, BLOCK_C=256)
    return config(4, 1, BLOCK_T=32, BLOCK_C=128)


def launch_causal_conv(
    spec: ConvSpec,
    config: KernelConfig,
    x: torch.Tensor,  # [T, channels], any row stride
    weight: torch.Tensor,  # [taps, channels] float32
    inputs: StateInputs,
    out: torch.Tensor,  # [T, channels], any row stride; not x
    *,
    decodes: bool,  # one token of each sequence, token s being sequence s's
    pdl: bool = False,
) -> list[Launch]:
    """One launch. The grid is the most tiles that T tokens of S sequences can make."""
    # What a tile needs of the state must not reach into the next tile.
    block_t = 1 if decodes else max(config["BLOCK_T"], next_power(spec.taps - 1))
    block_c = config["BLOCK_C"]
    tiles = inputs.num_seqs + (0 if decodes else ceil_div(x.shape[0], block_t))
    return [
        Launch(
            causal_conv_kernel,
            (tiles, ceil_div(spec.channels, block_c), 1),
            {"x": x, "weight": weight, **inputs.args(), "out": out, "num_seqs": inputs.num_seqs},
            {
                "X_STRIDE": x.stride(0),
                "OUT_STRIDE": out.stride(0),
                "STATE_SIZE": spec.state_floats,
                "CHANNELS": spec.channels,
                "TAPS": spec.taps,
                "DECODES": decodes,
                "BLOCK_S": max(next_power(inputs.num_seqs), 16),
                "BLOCK_T": block_t,
                "BLOCK_C": block_c,
                "BLOCK_TAPS": next_power(spec.taps - 1),
            },
            config.num_warps,
            config.num_stages,
            pdl,
        )
    ]


@triton.jit(do_not_specialize=["num_seqs"])
def causal_conv_kernel(
    x, weight, state, state_slots, context_lens, query_start_loc, out, num_seqs,
    X_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, STATE_SIZE: tl.constexpr,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, DECODES: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_TAPS: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, tiles of channels). Tokens count from the sequence's first of this step; those before
    that one are in its state.
    """
    tile = tl.program_id(0)
    seq = tile
    if not DECODES:
        seq = find_sequence(tile, query_start_loc, num_seqs, BLOCK_T, BLOCK_S)
    begin, count, before, slot = run_of_sequence(seq, state_slots, context_lens, query_start_loc)
    first = 0
    if not DECODES:
        first = (tile - (begin.to(tl.int32) // BLOCK_T + seq)) * BLOCK_T
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if first < count:
        columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        is_column = (columns < CHANNELS)[None, :]
        own = state + slot * STATE_SIZE
        tokens = first + tl.arange(0, BLOCK_T)
        acc = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        for j in tl.static_range(TAPS):
            taken = tokens + (j - (TAPS - 1))
            inputs = load_inputs(x, own, begin, taken, count, before, columns, X_STRIDE, CHANNELS, TAPS)
            factors = tl.load(weight + j * CHANNELS + columns, mask=columns < CHANNELS, other=0.0)
            acc = tl.fma(inputs, tl.broadcast_to(factors[None, :], (BLOCK_T, BLOCK_C)), acc)
        tl.store(
            out + (begin + tokens)[:, None] * OUT_STRIDE + columns[None, :],
            acc.to(out.dtype.element_ty),
            mask=(tokens < count)[:, None] & is_column,
        )
        if first == 0:
            rows = tl.arange(0, BLOCK_TAPS)
            kept = count - (TAPS - 1) + rows
            last = load_inputs(x, own, begin, kept, count, before, columns, X_STRIDE, CHANNELS, TAPS)
            tl.debug_barrier()  # all threads have read what is written now
            tl.store(
                own + rows[:, None] * CHANNELS + columns[None, :],
                last,
                mask=(rows < TAPS - 1)[:, None] & is_column,
            )


@triton.jit
def load_inputs(
    x, own, begin, tokens, count, before, columns,
    X_STRIDE: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """[tokens, columns] of a sequence in float32: of this step, of its state, or 0."""
    is_column = (columns < CHANNELS)[None, :]
    is_new = ((tokens >= 0) & (tokens < count))[:, None]
    is_old = ((tokens < 0) & (tokens >= 1 - TAPS) & (tokens >= -before))[:, None]
    new = x + (begin + tokens)[:, None] * X_STRIDE + columns[None, :]
    old = own + (TAPS - 1 + tokens)[:, None] * CHANNELS + columns[None, :]
    inputs = tl.load(new, mask=is_new & is_column, other=0.0).to(tl.float32)
    return tl.where(is_new, inputs, tl.load(old, mask=is_old & is_column, other=0.0))
