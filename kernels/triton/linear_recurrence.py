"""S_t = decay_t ∘ S_{t-1} + k_t v_tᵀ, out_t = S_tᵀ q_t: a matrix of each head that decays and takes up.

Under the delta rule v_t is replaced by beta_t (v_t - S'ᵀ k_t), S' being the decayed matrix. State of a
sequence: S of each head, [heads, key_dim, columns], columns being value_dim in whole vectors. A program has a
tile of columns of one head in registers and goes from token to token, so that an output's bits do not depend
on how a prompt was cut into steps.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import KernelConfig, Launch, ceil_div, config, next_power
from pagedc.kernels.triton.state import StateInputs, run_of_sequence, whole_vectors

# How many decays a head has at a token: one, one a row of S (an element of k), or one a column (of v).
# EXP_COLUMN: that of row i and column j is exp(decay[j] · rate[i, j]).
Decay = Literal["HEAD", "ROW", "COLUMN", "EXP_COLUMN"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrenceSpec:
    """What is compiled in."""

    heads: int
    key_heads: int  # each serves heads / key_heads heads
    key_dim: int
    value_dim: int
    decay: Decay
    is_delta: bool

    @property
    def columns(self) -> int:
        """Of S in memory."""
        return whole_vectors(self.value_dim)

    @property
    def state_floats(self) -> int:
        """Of one sequence."""
        return self.heads * self.key_dim * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrenceInputs:
    """Rows of one token each; a row stride of 0 where all tokens have the same."""

    q: torch.Tensor  # [T, key_heads * key_dim]
    k: torch.Tensor  # [T, key_heads * key_dim]
    v: torch.Tensor  # [T, heads * value_dim]
    decay: torch.Tensor  # [T, heads * (1, key_dim or value_dim)]
    rate: torch.Tensor | None  # [heads, key_dim, value_dim] float32
    beta: torch.Tensor | None  # [T, heads]

    def args(self) -> dict[str, torch.Tensor | None]:
        """As the kernel calls them."""
        named = {"q": self.q, "k": self.k, "v": self.v, "decay": self.decay}
        return {**named, "rate": self.rate, "beta": self.beta}

    def strides(self) -> dict[str, int]:
        """Of the rows."""
        rows = {"Q": self.q, "K": self.k, "V": self.v, "DECAY": self.decay, "BETA": self.beta}
        return {f"{name}_STRIDE": 0 if x is None else x.stride(0) for name, x in rows.items()}


def defaults(spec: RecurrenceSpec) -> KernelConfig:
    """Not tuned: 1024 elements of S for one warp, whose sums need no barriers. One for all sizes."""
    most = max(1024 // next_power(spec.key_dim), 1)
    return config(1, 3, BLOCK_V=min(most, 256, next_power(spec.value_dim)))


def launch_linear_recurrence(
    spec: RecurrenceSpec,
    config: KernelConfig,
    inputs: RecurrenceInputs,
    state: StateInputs,
    out: torch.Tensor,  # [T, heads * value_dim], any row stride
    *,
    pdl: bool = False,
) -> list[Launch]:
    """One launch, for any number of tokens of each sequence."""
    tiles = ceil_div(spec.value_dim, config["BLOCK_V"])
    return [
        Launch(
            linear_recurrence_kernel,
            (spec.heads * tiles, state.num_seqs, 1),
            {**inputs.args(), **state.args(), "out": out},
            {
                **inputs.strides(),
                "OUT_STRIDE": out.stride(0),
                "STATE_SIZE": spec.state_floats,
                "TILES": tiles,
                "GROUP": spec.heads // spec.key_heads,
                "KEY_DIM": spec.key_dim,
                "VALUE_DIM": spec.value_dim,
                "COLUMNS": spec.columns,
                "DECAY": spec.decay,
                "IS_DELTA": spec.is_delta,
                "BLOCK_K": next_power(spec.key_dim),
                "BLOCK_V": config["BLOCK_V"],
                "STAGES": config.num_stages,
            },
            config.num_warps,
            config.num_stages,
            pdl,
        )
    ]


@triton.jit
def linear_recurrence_kernel(
    q, k, v, decay, rate, beta, state, state_slots, context_lens, query_start_loc, out,
    Q_STRIDE: tl.constexpr, K_STRIDE: tl.constexpr, V_STRIDE: tl.constexpr, DECAY_STRIDE: tl.constexpr,
    BETA_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, STATE_SIZE: tl.constexpr,
    TILES: tl.constexpr, GROUP: tl.constexpr, KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    COLUMNS: tl.constexpr, DECAY: tl.constexpr, IS_DELTA: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (heads · tiles of columns, S)."""
    head = tl.program_id(0) // TILES
    j = tl.program_id(0) % TILES * BLOCK_V + tl.arange(0, BLOCK_V)
    i = tl.arange(0, BLOCK_K)
    begin, count, before, slot = run_of_sequence(tl.program_id(1), state_slots, context_lens, query_start_loc)
    is_row, is_column = i < KEY_DIM, j < VALUE_DIM
    inside = is_row[:, None] & is_column[None, :]
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if count > 0:
        place = state + slot * STATE_SIZE + (head * KEY_DIM + i)[:, None] * COLUMNS + j[None, :]
        matrix = tl.zeros((BLOCK_K, BLOCK_V), tl.float32)
        if before > 0:
            matrix = tl.load(place, mask=inside, other=0.0)
        if DECAY == "EXP_COLUMN":
            rates = tl.load(
                rate + (head * KEY_DIM + i)[:, None] * VALUE_DIM + j[None, :], mask=inside, other=0.0
            )
        keys = head // GROUP * KEY_DIM + i
        values = head * VALUE_DIM + j
        for t in tl.range(0, count, num_stages=STAGES):
            token = begin + t
            key = tl.load(k + token * K_STRIDE + keys, mask=is_row, other=0.0).to(tl.float32)
            query = tl.load(q + token * Q_STRIDE + keys, mask=is_row, other=0.0).to(tl.float32)
            value = tl.load(v + token * V_STRIDE + values, mask=is_column, other=0.0).to(tl.float32)
            decays = decay + token * DECAY_STRIDE
            if DECAY == "HEAD":
                matrix *= tl.load(decays + head).to(tl.float32)
            elif DECAY == "ROW":
                factors = tl.load(decays + head * KEY_DIM + i, mask=is_row, other=0.0)
                matrix *= factors.to(tl.float32)[:, None]
            else:
                factors = tl.load(decays + values, mask=is_column, other=0.0).to(tl.float32)
                if DECAY == "EXP_COLUMN":
                    matrix *= tl.exp(factors[None, :] * rates)
                else:
                    matrix *= factors[None, :]
            if IS_DELTA:
                known = tl.sum(matrix * key[:, None], 0)
                value = (value - known) * tl.load(beta + token * BETA_STRIDE + head).to(tl.float32)
            matrix += key[:, None] * value[None, :]
            tl.store(
                out + token * OUT_STRIDE + values,
                tl.sum(matrix * query[:, None], 0).to(out.dtype.element_ty),
                mask=is_column,
            )
        tl.debug_barrier()  # all threads have read it
        tl.store(place, matrix, mask=inside)
