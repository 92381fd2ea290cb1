"""kernels/cpu/abi.h for ctypes."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

ARRAYS = (
    "token_ids",
    "positions",
    "slot_mapping",
    "block_tables",
    "context_lens",
    "query_start_loc",
    "state_slots",
    "logits_rows",
    "sampling",
    "history_tokens",
    "bias_tokens",
    "bias_values",
    "allowed_tokens",
)
OUTPUTS = ("token_ids_out", "logprobs_out", "top_ids_out", "top_logprobs_out", "logits_out", "hidden_out")


class PagedcBatch(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("num_tokens", "num_seqs", "num_rows", "max_blocks")),
        *((name, ctypes.c_void_p) for name in ARRAYS),
        ("max_logprobs", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in OUTPUTS),
        ("skip_head", ctypes.c_int32),
    )


def pointer(array: npt.NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def make_batch(**values: Any) -> PagedcBatch:
    """The struct over contiguous arrays, which the caller keeps alive. Counts are plain integers."""
    batch = PagedcBatch()
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous, name
        setattr(batch, name, pointer(value) if isinstance(value, np.ndarray) else value)
    return batch


def aligned_zeros(num_bytes: int, fill: int = 0) -> npt.NDArray[np.uint8]:
    """Bytes that start at a multiple of 64."""
    raw = np.full(num_bytes + 64, fill, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + num_bytes]
