"""Prepare a step while the device runs the one before it.

Scheduling, blocks, staging arrays and the sampling table of step N+1 need all of step N but the token ids
that it chooses. Where the executor can (`batch.QueueingExecutor`), the engine therefore keeps two steps on
the device: N+1 is submitted before N is waited for, and the events of N are made and sent while N+1 runs.

- A step that is submitted counts as computed, and each sequence that samples in row r gets the placeholder
  -1 - r as its newest token. Lengths, positions, slots and the sampler's counter are then right for N+1;
  the device reads the placeholder, among a step's tokens and in the history that penalties see, as "what
  row r of the step before chose". Taking N up puts the token in its place, so no more than one placeholder
  stands in a sequence when the next step is scheduled.
- A sequence that must end with N, by its length, is not scheduled again. One that ends by its token, or is
  aborted, gives its blocks back at once and its row of N+1 is dropped unread: no event, no count. The
  device runs steps in order, so whoever gets such a block writes it later. Blocks are told to the prefix
  cache when their step is taken up, by tokens that are known then.
- The next step waits for the tokens where the host must see them: a sequence of N follows a grammar, whose
  mask depends on it; or blocks are short, since a preempted sequence is computed again from its tokens.
  Biases, `min_tokens`, seeds and logprobs need counts alone.

An executor that cannot is given one step at a time: the same code without a second step. The CPU's is one
of them: its threads are all the cores, and what prepares the next step beside them stands in their way. Given
steps through a thread, SmolLM2 in bfloat16 on 2 cores ran 0.95 times as fast with one sequence, and 0.97
times with 16.
"""

from collections import deque
from typing import NamedTuple

from pagedc.runtime.batch import Batch, Executor, QueueingExecutor, StepResult
from pagedc.runtime.batch_builder import PreparedBatch
from pagedc.runtime.scheduler import Schedule
from pagedc.runtime.sequence import Sequence, Status


class StepQueue:
    """Steps that were given to an executor and not taken up yet: at most two, the oldest first."""

    def __init__(self, executor: Executor) -> None:
        self._device = executor if isinstance(executor, QueueingExecutor) else _OneAtATime(executor)
        self._can_queue = isinstance(executor, QueueingExecutor)
        self._steps: deque[Step] = deque()
        self.boot_seconds = executor.boot_seconds if isinstance(executor, QueueingExecutor) else {}

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def may_look_ahead(self) -> bool:
        """Whether a second step may be prepared, with placeholders for what the first one chooses."""
        return (
            self._can_queue
            and len(self._steps) == 1
            and not any(map(_needs_its_token, self._steps[0].prepared.sampled))
        )

    def warm_up(self) -> bool:
        """Use a moment without work; False if there is nothing to use it for."""
        return isinstance(self._device, QueueingExecutor) and self._device.warm_up()

    def submit(self, schedule: Schedule, prepared: PreparedBatch) -> None:
        """Start a step, and count its tokens as computed."""
        self._device.submit(prepared.batch)
        for sequence, num_tokens in zip(*schedule, strict=True):
            sequence.num_computed_tokens += num_tokens
        for row, sequence in enumerate(prepared.sampled):
            if not sequence.pooling:
                sequence.token_ids.append(-1 - row)
        self._steps.append(Step(schedule.sequences, prepared))

    def wait(self) -> "tuple[Step, StepResult]":
        """The oldest step and, once it is done, what it brought: valid until the next `submit`."""
        result = self._device.wait()
        return self._steps.popleft(), result


class Step(NamedTuple):
    """One that was submitted."""

    sequences: list[Sequence]
    prepared: PreparedBatch


class _OneAtATime:
    """An executor that runs a step in one call."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._result: StepResult | None = None

    def submit(self, batch: Batch) -> None:
        self._result = self._executor.step(batch)

    def wait(self) -> StepResult:
        assert self._result is not None
        return self._result


def _needs_its_token(sequence: Sequence) -> bool:
    """Whether the host must know its newest token before its next one can be sampled."""
    return sequence.grammar is not None and sequence.status is Status.RUNNING and not sequence.is_complete
