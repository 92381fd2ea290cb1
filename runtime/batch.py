"""The numpy boundary between the engine and an executor: what a step is given, and what it returns."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

# One row of `Batch.sampling`: field for field `pagedc_sampling` of kernels/cpu/abi.h.
SAMPLING_DTYPE = np.dtype(
    [
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("top_k", np.int32),
        ("num_logprobs", np.int32),
        ("forced_token", np.int32),
        ("mask_row", np.int32),
        ("seed", np.uint64),
        ("counter", np.uint64),
        ("history_start", np.int32),
        ("history_end", np.int32),
        ("prompt_end", np.int32),
        ("bias_start", np.int32),
        ("bias_end", np.int32),
    ],
    align=True,
)


@dataclass(slots=True, kw_only=True)
class Batch:
    """One step: T tokens of S sequences, flat, grouped by sequence; R rows of logits are sampled."""

    token_ids: Int32  # [T], below 0 where QueueingExecutor says so
    positions: Int32  # [T]
    slot_mapping: Int64  # [T] block * block_size + offset, -1 = padding
    block_tables: Int32  # [S, max_blocks]
    context_lens: Int32  # [S] tokens in the cache once this step's are stored
    query_start_loc: Int32  # [S + 1]
    state_slots: Int32  # [S] where each sequence's state lies
    logits_rows: Int32  # [R]
    sampling: NDArray[np.void]  # [R] of SAMPLING_DTYPE
    history_tokens: Int32  # concatenated; each row of `sampling` has its slice; below 0 like token_ids
    bias_tokens: Int32
    bias_values: Float32
    allowed_tokens: NDArray[np.uint32]  # [masks, ceil(vocab_size / 32)]
    max_logprobs: int = 0  # K
    wants_hidden: bool = False
    skips_head: bool = False  # hidden states are all that is wanted


@dataclass(slots=True, kw_only=True)
class StepResult:
    """What was chosen for each of the R rows."""

    token_ids: Int32  # [R]
    logprobs: Float32  # [R] of the chosen token
    top_ids: Int32  # [R, K]
    top_logprobs: Float32  # [R, K]
    logits: Float32 | None = None  # [R, vocab_size], where asked for
    hidden: Float32 | None = None  # [R, hidden_size], where asked for


class Executor(Protocol):
    """Runs the model; owns device, weights and KV cache."""

    @property
    def num_blocks(self) -> int:
        """Blocks of the KV cache."""
        ...

    def step(self, batch: Batch, *, want_logits: bool = False) -> StepResult:
        """Run one step. Raises ExecutorError if the device failed."""
        ...

    def close(self) -> None:
        """Free the device; safe to call twice."""
        ...


@runtime_checkable
class QueueingExecutor(Executor, Protocol):
    """One that takes a step's batch while the step before it still runs.

    In such a batch a token id -1 - r, in `token_ids` or `history_tokens`, is what row r of the step before
    chose.
    """

    boot_seconds: dict[str, float]  # by phase: what opening it took

    def submit(self, batch: Batch) -> None:
        """Start a step; at most two are open. The batch's arrays may change once this returns."""
        ...

    def wait(self) -> StepResult:
        """The result of the oldest open step, valid until the next call of `submit`. Raises ExecutorError if
        the device failed.
        """
        ...

    def warm_up(self) -> bool:
        """Prepare for steps of one more size, which the first of them would else wait for; False once there
        is none left. Raises ExecutorError.
        """
        ...
