"""Choose what runs next.

The scheduler sees token counts and block tables, never tensors: it can be tested without a model and replayed
from a log.

Each step takes every decoding sequence first (one token each), then spends what is left of
`max_num_batched_tokens` on prefill, oldest first, in chunks. A sequence gets a state slot and the blocks of
all its tokens when it is admitted, and more blocks when its new tokens need them: one that it decoded, and
those that its grammar forced after it, which are prefilled. When none is left, the newest sequence of the
lowest priority is preempted: it gives everything back and is prefilled again later. The head of the queue is
never passed over, so nothing starves: the oldest running sequence always proceeds, and the cache holds at
least one sequence of any length.
"""

from bisect import bisect_left, insort
from operator import attrgetter
from typing import NamedTuple

from pagedc.runtime.block_manager import BlockManager
from pagedc.runtime.sequence import Sequence, Status


class Schedule(NamedTuple):
    """What one step computes."""

    sequences: list[Sequence]  # decoding ones first
    num_new_tokens: list[int]  # of each, from its num_computed_tokens on


class Scheduler:
    """`waiting` and `running` are kept in order of (priority, arrival)."""

    def __init__(
        self, block_manager: BlockManager, max_num_seqs: int, max_num_batched_tokens: int, max_num_rows: int
    ) -> None:
        self.block_manager = block_manager
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_num_rows = max_num_rows
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._free_state_slots = list(range(max_num_seqs - 1, -1, -1))
        self.prefix_cache_queries = 0  # tokens looked up
        self.prefix_cache_hits = 0  # tokens found

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        sequence.status = Status.WAITING
        insort(self.waiting, sequence, key=_order)

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence in whatever state it is, and free what it holds."""
        if sequence.status is Status.WAITING:
            _remove(self.waiting, sequence)
        elif sequence.status is Status.RUNNING:
            self._release(sequence)
        sequence.status = Status.FINISHED

    def schedule(self, *, may_preempt: bool = True) -> Schedule:
        """The sequences of the next step; empty if none can go on, or only by preempting without leave."""
        sequences = self._schedule_decodes(may_preempt)
        if sequences is None:
            return Schedule([], [])
        num_new_tokens = [1] * len(sequences)
        tokens_left = self.max_num_batched_tokens - len(sequences)
        rows_left = self.max_num_rows - len(sequences)
        if len(sequences) < len(self.running):
            for sequence in self.running:
                if sequence.num_uncomputed_tokens > 1 and tokens_left > 0 and rows_left > 0:
                    tokens_left, rows_left = self._add_chunk(
                        sequence, tokens_left, rows_left, sequences, num_new_tokens
                    )
        while self.waiting and tokens_left > 0 and rows_left > 0 and self._can_admit(self.waiting[0]):
            sequence = self._admit(self.waiting.pop(0))
            tokens_left, rows_left = self._add_chunk(
                sequence, tokens_left, rows_left, sequences, num_new_tokens
            )
        return Schedule(sequences, num_new_tokens)

    def _schedule_decodes(self, may_preempt: bool) -> list[Sequence] | None:
        """Every decoding sequence. Each running one gets slots for its newest tokens, after preempting as
        many as it takes; None where that is not allowed.
        """
        block_manager = self.block_manager
        decodes = []
        for sequence in list(self.running):
            if sequence.status is not Status.RUNNING or sequence.is_complete:
                continue
            if block_manager.needs_block(sequence):  # seldom
                if not may_preempt and not block_manager.can_append(sequence):
                    return None
                while not block_manager.can_append(sequence) and self.running[-1] is not sequence:
                    self._preempt(self.running[-1])
                if not block_manager.can_append(sequence):
                    self._preempt(sequence)
                    continue
                block_manager.append(sequence)
            if sequence.num_uncomputed_tokens == 1:
                decodes.append(sequence)
        return decodes

    def _add_chunk(
        self,
        sequence: Sequence,
        tokens_left: int,
        rows_left: int,
        sequences: list[Sequence],
        num_new_tokens: list[int],
    ) -> tuple[int, int]:
        """Put the next chunk of its prefill into the step; returns what is left of the two budgets."""
        num_tokens = min(sequence.num_uncomputed_tokens, tokens_left)
        num_rows = 1
        if sequence.wants_prompt_logprobs and sequence.num_computed_tokens < sequence.num_prompt_tokens:
            num_tokens = num_rows = min(num_tokens, rows_left)
        sequences.append(sequence)
        num_new_tokens.append(num_tokens)
        return tokens_left - num_tokens, rows_left - num_rows

    def _can_admit(self, sequence: Sequence) -> bool:
        # A free block for each running sequence: else the newcomer would soon preempt or be preempted.
        return len(self.running) < self.max_num_seqs and self.block_manager.can_allocate(
            sequence, reserve=len(self.running)
        )

    def _admit(self, sequence: Sequence) -> Sequence:
        num_cached_tokens = self.block_manager.allocate(sequence)
        if sequence.num_preemptions == 0:  # finding one's own blocks again is no hit
            sequence.num_cached_tokens = num_cached_tokens
            self.prefix_cache_queries += sequence.num_prompt_tokens
            self.prefix_cache_hits += num_cached_tokens
        sequence.state_slot = self._free_state_slots.pop()
        sequence.status = Status.RUNNING
        insort(self.running, sequence, key=_order)
        return sequence

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.add(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Take what a running sequence holds: its blocks and its state slot."""
        _remove(self.running, sequence)
        self.block_manager.free(sequence)
        self._free_state_slots.append(sequence.state_slot)
        sequence.state_slot = -1


_order = attrgetter("order")


def _remove(sequences: list[Sequence], sequence: Sequence) -> None:
    i = bisect_left(sequences, sequence.order, key=_order)
    assert sequences[i] is sequence
    del sequences[i]
