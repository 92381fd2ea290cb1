"""Drive a package's model.so: the C interface of kernels/cpu/abi.h, mirrored in ctypes.

A step copies its arrays to places whose addresses are known, writes those into one struct made at the start,
and makes one call; Python's lock is free meanwhile.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagedc.runtime.batch import SAMPLING_DTYPE, Batch, StepResult
from pagedc.runtime.config import EngineConfig
from pagedc.runtime.errors import ExecutorError, PackageError
from pagedc.runtime.manifest import ABI_VERSION
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import MAX_LOGPROBS

# Batch's arrays in the struct's order, with their element types.
_INPUTS: tuple[tuple[str, np.dtype[np.generic]], ...] = (
    ("token_ids", np.dtype(np.int32)),
    ("positions", np.dtype(np.int32)),
    ("slot_mapping", np.dtype(np.int64)),
    ("block_tables", np.dtype(np.int32)),
    ("context_lens", np.dtype(np.int32)),
    ("query_start_loc", np.dtype(np.int32)),
    ("state_slots", np.dtype(np.int32)),
    ("logits_rows", np.dtype(np.int32)),
    ("sampling", SAMPLING_DTYPE),
    ("history_tokens", np.dtype(np.int32)),
    ("bias_tokens", np.dtype(np.int32)),
    ("bias_values", np.dtype(np.float32)),
    ("allowed_tokens", np.dtype(np.uint32)),
)


class BatchStruct(ctypes.Structure):
    """`pagedc_batch`."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("num_tokens", "num_seqs", "num_rows", "max_blocks")),
        *((name, ctypes.c_void_p) for name, _ in _INPUTS),
        ("max_logprobs", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "token_ids_out",
                "logprobs_out",
                "top_ids_out",
                "top_logprobs_out",
                "logits_out",
                "hidden_out",
            )
        ),
        ("skip_head", ctypes.c_int32),
    ]


class OptionsStruct(ctypes.Structure):
    """`pagedc_options`."""

    _fields_ = [
        ("num_threads", ctypes.c_int32),
        ("max_num_tokens", ctypes.c_int32),
        ("max_num_rows", ctypes.c_int32),
        ("num_blocks", ctypes.c_int64),
        ("num_state_slots", ctypes.c_int32),
    ]


def open_cpu_executor(package: Package, config: EngineConfig) -> "CpuExecutor":
    """Read the weights and load the program; raises PackageError or ExecutorError."""
    weights = package.map_weights()
    try:
        weights.populate()
        return CpuExecutor(
            package.program_path,
            weights.addresses,
            keep_alive=weights,
            num_threads=config.num_threads,
            max_num_tokens=config.max_num_batched_tokens,
            max_num_rows=config.max_num_rows,
            num_blocks=config.num_blocks,
            num_state_slots=config.max_num_seqs,
            vocab_size=config.vocab_size,
            hidden_size=package.manifest.model.hidden_size,
        )
    except BaseException:
        weights.close()
        raise


class CpuExecutor:
    """One loaded program with its KV cache. A StepResult is valid until the next step. Not thread-safe."""

    def __init__(
        self,
        program: Path,
        weights: Sequence[int],  # addresses, in the manifest's order
        *,
        keep_alive: object = None,  # what owns the memory of `weights`
        num_threads: int,
        max_num_tokens: int,
        max_num_rows: int,
        num_blocks: int,
        num_state_slots: int,
        vocab_size: int,
        hidden_size: int = 0,
    ) -> None:
        self.num_blocks = num_blocks
        self._vocab_size = vocab_size
        self._hidden_size = hidden_size
        self._keep_alive = keep_alive
        self._library = _load(program)
        options = OptionsStruct(num_threads, max_num_tokens, max_num_rows, num_blocks, num_state_slots)
        pointers = (ctypes.c_void_p * len(weights))(*weights)
        self._handle = self._library.pagedc_create(ctypes.byref(options), pointers, len(weights))
        if not self._handle:
            raise ExecutorError(
                f"{program}: no memory for {num_blocks} blocks of KV cache and the activations of "
                f"{max_num_tokens} tokens: give less --memory or a smaller max_num_batched_tokens"
            )
        self._token_ids = np.zeros(max_num_rows, np.int32)
        self._logprobs = np.zeros(max_num_rows, np.float32)
        self._top_ids = np.zeros(max_num_rows * MAX_LOGPROBS, np.int32)
        self._top_logprobs = np.zeros(max_num_rows * MAX_LOGPROBS, np.float32)
        self._batch = BatchStruct(
            token_ids_out=self._token_ids.ctypes.data,
            logprobs_out=self._logprobs.ctypes.data,
            top_ids_out=self._top_ids.ctypes.data,
            top_logprobs_out=self._top_logprobs.ctypes.data,
        )
        self._batch_pointer = ctypes.byref(self._batch)
        self._inputs = [(name, _Staging(dtype)) for name, dtype in _INPUTS]

    def step(self, batch: Batch, *, want_logits: bool = False) -> StepResult:
        """Run one step. Raises ExecutorError if the batch exceeds what the program was created for."""
        if not self._handle:
            raise ExecutorError("the executor is closed")
        num_rows, max_logprobs = len(batch.logits_rows), batch.max_logprobs
        if num_rows > len(self._token_ids) or max_logprobs > MAX_LOGPROBS:
            raise ExecutorError(
                f"{num_rows} rows with {max_logprobs} logprobs exceed what the executor was made for"
            )
        struct = self._batch
        struct.num_tokens = len(batch.token_ids)
        struct.num_seqs, struct.max_blocks = batch.block_tables.shape
        struct.num_rows = num_rows
        struct.max_logprobs = max_logprobs
        for name, staging in self._inputs:
            setattr(struct, name, staging.put(getattr(batch, name)))
        logits = np.empty((num_rows, self._vocab_size), np.float32) if want_logits else None
        struct.logits_out = None if logits is None else logits.ctypes.data
        hidden = np.empty((num_rows, self._hidden_size), np.float32) if batch.wants_hidden else None
        struct.hidden_out = None if hidden is None else hidden.ctypes.data
        struct.skip_head = batch.skips_head
        status = self._library.pagedc_step(self._handle, self._batch_pointer)
        if status != 0:
            size = f"{struct.num_tokens} tokens and {num_rows} rows"
            raise ExecutorError(f"step returned {status} for {size}: more than the executor was made for")
        num_top = num_rows * max_logprobs
        return StepResult(
            token_ids=self._token_ids[:num_rows],
            logprobs=self._logprobs[:num_rows],
            top_ids=self._top_ids[:num_top].reshape(num_rows, max_logprobs),
            top_logprobs=self._top_logprobs[:num_top].reshape(num_rows, max_logprobs),
            logits=logits,
            hidden=hidden,
        )

    def close(self) -> None:
        """Free the program's memory; safe to call twice."""
        if self._handle:
            self._library.pagedc_destroy(self._handle)
            self._handle = None
        close = getattr(self._keep_alive, "close", None)
        if close is not None:
            close()


class _Staging:
    """A buffer whose address is known: asking numpy for an array's takes longer (1–2 µs) than copying it."""

    def __init__(self, dtype: np.dtype[np.generic]) -> None:
        self._resize(1024, dtype)

    def put(self, array: NDArray[np.generic]) -> int:
        """Copy an array of any shape; returns its address, good until the next put."""
        num_items = array.size
        if num_items > len(self._buffer):
            self._resize(2 * num_items, self._buffer.dtype)
        self._buffer[:num_items] = array if array.ndim == 1 else array.reshape(-1)
        return self._address

    def _resize(self, num_items: int, dtype: np.dtype[np.generic]) -> None:
        self._buffer = np.zeros(num_items, dtype)
        self._address: int = self._buffer.ctypes.data


def _load(program: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(program.absolute()))
        library.pagedc_abi_version.restype = ctypes.c_int32
        library.pagedc_create.restype = ctypes.c_void_p
        library.pagedc_create.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]
        library.pagedc_step.restype = ctypes.c_int32
        library.pagedc_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.pagedc_destroy.restype = None
        library.pagedc_destroy.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError) as error:
        raise PackageError(
            f"{program}: cannot be loaded: {_one_line(error)}; compile the model again here"
        ) from None
    version = library.pagedc_abi_version()
    if version != ABI_VERSION:
        raise PackageError(
            f"{program}: ABI version {version}, but this pagedc drives {ABI_VERSION}; compile it again"
        )
    return library


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
