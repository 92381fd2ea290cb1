"""Drive a package for a GPU: its model.py says which kernels run, its launcher runs them.

For each size of a step (a bucket) model.py is run once and its launches are kept, arguments and all, since
every buffer has a fixed place. A step that decodes, one token of each of its sequences, is captured as one
graph. Copies of inputs and outputs stand before and behind it on the stream: their host memory alternates
from step to step, so that one may be submitted while another runs. Neither torch nor Triton is imported
unless PAGEDC_TRITON_INTERPRET=1, for tests, asks for Triton's interpreter.
"""

import importlib
import itertools
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagedc.runtime.batch import Batch, StepResult
from pagedc.runtime.config import EngineConfig, is_interpreted
from pagedc.runtime.errors import ExecutorError
from pagedc.runtime.executors.cuda_memory import Arenas, RecordedStep, upload_weights
from pagedc.runtime.executors.cuda_staging import (
    TURNS,
    InputBlock,
    VariableInputs,
    row_fields,
    token_fields,
)
from pagedc.runtime.package import Package

_numbers = itertools.count()


def open_cuda_executor(package: Package, config: EngineConfig) -> "CudaExecutor":
    """Load weights and kernels. Raises PackageError or ExecutorError."""
    return CudaExecutor(package, config)


class Plan(NamedTuple):
    """One size of a step, ready to run."""

    run: Callable[[], None]
    tokens: InputBlock
    rows: InputBlock


class _OpenStep(NamedTuple):
    """One that was submitted: what is to be read when it is done."""

    turn: int
    num_planned_rows: int
    num_rows: int
    max_logprobs: int
    logits: NDArray[np.float32] | None


class CudaExecutor:
    """One loaded package with its KV cache: a `QueueingExecutor`. Not thread-safe."""

    def __init__(self, package: Package, config: EngineConfig) -> None:
        name = _importable(package.path)
        launcher = _import(f"{name}.launcher")
        self._model = _import(f"{name}.model")
        self._error: type[Exception] = launcher.DeviceError
        self._table = launcher.LaunchTable(package.path)
        interpret = is_interpreted(package.manifest)
        self.num_blocks = config.num_blocks
        self._config = config
        self._plans: dict[tuple[bool, int, int, int], Plan] = {}
        self._open: deque[_OpenStep] = deque()
        self._turn = 0  # of the step that was submitted last
        self.boot_seconds: dict[str, float] = {}
        try:
            with _no_bytecode():
                with self._phase("driver"):
                    self._device = launcher.open_device(package.path, self._table, name, interpret=interpret)
                with self._phase("weights"):
                    self._weights = upload_weights(package, self._device)
                with self._phase("memory"):
                    self._arenas = Arenas(self._device, self._model, self._table, config)
                    self._variable = VariableInputs(self._device)
                with self._phase("first_graph"):
                    self._cold = self._common_sizes()
                    self._plan(*self._cold.popleft())  # so that a package that cannot run says so now
                    self._device.synchronize()
        except self._error as error:
            raise ExecutorError(f"{package.path}: {error}") from None

    def submit(self, batch: Batch) -> None:
        """Put a step on the GPU's stream; at most two are open. Raises ExecutorError where the batch exceeds
        what the executor was made for, or the device failed.
        """
        with _no_bytecode(), self._errors():
            self._submit(batch, want_logits=False)

    def wait(self) -> StepResult:
        """The result of the oldest open step, valid until the next call. Raises ExecutorError where the
        device failed.
        """
        step = self._open.popleft()
        with self._errors():
            self._device.wait(step.turn)
        outputs = self._arenas.output_arrays(step.turn, step.num_planned_rows)
        return StepResult(
            token_ids=outputs["token_ids_out"][: step.num_rows],
            logprobs=outputs["logprobs_out"][: step.num_rows],
            top_ids=outputs["top_ids_out"][: step.num_rows, : step.max_logprobs],
            top_logprobs=outputs["top_logprobs_out"][: step.num_rows, : step.max_logprobs],
            logits=step.logits,
        )

    def step(self, batch: Batch, *, want_logits: bool = False) -> StepResult:
        """Run one step while none is open; raises as `submit` and `wait` do."""
        with _no_bytecode(), self._errors():
            self._submit(batch, want_logits)
        return self.wait()

    def warm_up(self) -> bool:
        """Plan one more size of a step: 10 to 30 ms for its first user, were it left to that."""
        if not self._cold:
            return False
        with _no_bytecode(), self._errors():
            self._device.use()
            self._plan(*self._cold.popleft())
        return True

    def close(self) -> None:
        """Free the device; safe to call twice."""
        self._plans.clear()
        self._device.close()

    def _submit(self, batch: Batch, want_logits: bool) -> None:
        num_tokens, num_rows = len(batch.token_ids), len(batch.logits_rows)
        num_seqs, config = len(batch.context_lens), self._config
        limits = (config.max_num_batched_tokens, config.max_num_seqs, config.max_num_rows)
        if any(size > most for size, most in zip((num_tokens, num_seqs, num_rows), limits, strict=True)):
            raise ExecutorError(
                f"{num_tokens} tokens, {num_seqs} sequences and {num_rows} rows: more than the executor was "
                "made for"
            )
        device, arenas = self._device, self._arenas
        device.use()
        turn = self._turn = (self._turn + 1) % TURNS
        if self._variable.put(turn, batch):  # they have moved: what was recorded has the old addresses
            self._plans.clear()
        plan = self._plan(num_tokens == num_seqs == num_rows, num_tokens, num_seqs, num_rows)
        plan.tokens.put_tokens(turn, batch)
        plan.rows.put_rows(turn, batch)
        arenas.block_tables.put(turn, batch.block_tables)
        plan.run()
        arenas.copy_outputs(turn, plan.rows.size)
        logits = np.empty((num_rows, config.vocab_size), np.float32) if want_logits else None
        if logits is not None and num_rows:
            device.copy_out(logits, arenas.logits)
        device.mark(turn)
        self._open.append(_OpenStep(turn, plan.rows.size, num_rows, batch.max_logprobs, logits))

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.boot_seconds[name] = time.perf_counter() - begin

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise ExecutorError(str(error)) from None

    # Plans.

    def _common_sizes(self) -> "deque[tuple[bool, int, int, int]]":
        """Decodes of every bucket, the smallest first, then prompts of one sequence."""
        table, config = self._table, self._config
        most_seqs, most_tokens = config.max_num_seqs, config.max_num_batched_tokens
        decodes = [(True, size, size, size) for size in table.buckets["S"] if size <= most_seqs]
        return deque([*decodes, *((False, size, 1, 1) for size in table.buckets["T"] if size <= most_tokens)])

    def _plan(self, decodes: bool, num_tokens: int, num_seqs: int, num_rows: int) -> Plan:
        """The plan for the smallest sizes that hold these."""
        table = self._table
        seqs = table.bucket("S", num_seqs)
        tokens = seqs if decodes else table.bucket("T", num_tokens)
        rows = seqs if decodes else table.bucket("R", num_rows) if num_rows else 0
        key = (decodes, tokens, seqs, rows)
        if key not in self._plans:
            self._plans[key] = self._make(decodes, tokens, seqs, rows)
        return self._plans[key]

    def _make(self, decodes: bool, tokens: int, seqs: int, rows: int) -> Plan:
        arenas, device = self._arenas, self._device
        width = seqs if decodes else self._arenas.max_seqs  # a prefill looks through all sequences
        token_block = InputBlock(arenas.token_inputs, tokens, token_fields(tokens, width))
        row_block = InputBlock(arenas.row_inputs, rows, row_fields(rows))
        places = {**arenas.inputs, **token_block.addresses, **row_block.addresses}
        places |= {**self._variable.addresses, **arenas.output_places(rows)}
        step = RecordedStep(
            decodes, {"T": tokens, "S": seqs, "R": rows}, places, arenas, self._weights, self._table, device
        )
        self._model.tokens(step)
        if rows:
            self._model.rows(step)
        work = partial(device.run, step.launches)
        return Plan(device.capture(work) if decodes else work, token_block, row_block)


def _importable(path: Path) -> str:
    """Give a package's folder a name of its own to import it by: several may be open."""
    name = f"pagedc_package_{next(_numbers)}"
    module = types.ModuleType(name)
    module.__path__ = [str(path)]
    sys.modules[name] = module
    return name


def _import(name: str) -> Any:
    with _no_bytecode():
        return importlib.import_module(name)


class _no_bytecode:  # noqa: N801
    """A package holds what its manifest lists: no __pycache__ is written into it."""

    def __enter__(self) -> None:
        self._before = sys.dont_write_bytecode
        sys.dont_write_bytecode = True

    def __exit__(self, *error: object) -> None:
        sys.dont_write_bytecode = self._before
