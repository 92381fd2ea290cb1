"""Lay a schedule out as the arrays that an executor takes.

The large arrays are buffers made once: a batch is valid until the next one is built. A decoding sequence
costs a few list operations, a prefill chunk a copy of its token ids.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagedc.runtime.batch import SAMPLING_DTYPE, Batch, Float32, Int32
from pagedc.runtime.config import EngineConfig
from pagedc.runtime.row_template import NO_TOKENS, NO_VALUES, forced_rows
from pagedc.runtime.scheduler import Schedule
from pagedc.runtime.sequence import Sequence


class PromptRows(NamedTuple):
    """Rows that score prompt tokens: row `first_row + i` is of the token at `position + 1 + i`."""

    sequence: Sequence
    first_row: int
    position: int
    num_rows: int


class PreparedBatch(NamedTuple):
    """A batch and what its rows of logits mean."""

    batch: Batch
    sampled: list[Sequence]  # of row 0, 1, …: a token is chosen for each
    prompt_rows: list[PromptRows]  # the rows after those
    lengths: list[int]  # of each sequence that is sampled, with the tokens of this step
    context_lens: list[int]  # of each sequence of the schedule


class BatchBuilder:
    """Reused from step to step; not thread-safe."""

    def __init__(self, config: EngineConfig) -> None:
        self.block_size = config.block_size
        self._tokens = np.empty(config.max_num_batched_tokens, np.int32)
        self._positions = np.empty(config.max_num_batched_tokens, np.int32)
        self._slots = np.empty(config.max_num_batched_tokens, np.int64)
        # Zeroed: behind a table's end stands some valid block id, if not a meaningful one.
        self._block_tables = np.zeros(config.max_num_seqs * config.max_blocks_per_seq, np.int32)
        self._masks = np.empty(
            (0, -(-config.vocab_size // 32)), np.uint32
        )  # grows to as many as a step needs

    def build(self, schedule: Schedule) -> PreparedBatch:
        """The arrays of one step."""
        tokens, positions, slots = self._tokens, self._positions, self._slots
        size = self.block_size
        ends: list[int] = []  # of each sequence's tokens
        context_lens: list[int] = []
        sampled: list[Sequence] = []
        rows: list[int] = []
        chunks: list[tuple[Sequence, int, int]] = []  # sequence, first token, number of tokens
        decode_tokens: list[int] = []
        decode_positions: list[int] = []
        decode_slots: list[int] = []
        end = 0
        for sequence, num_tokens in zip(*schedule, strict=True):
            start = sequence.num_computed_tokens
            if num_tokens == 1 and not chunks and not sequence.wants_prompt_logprobs:
                decode_tokens.append(sequence.token_ids[start])
                decode_positions.append(start)
                decode_slots.append(sequence.block_table[start // size] * size + start % size)
            else:
                chunks.append((sequence, end, num_tokens))
            end += num_tokens
            ends.append(end)
            context_lens.append(start + num_tokens)
            if start + num_tokens == len(sequence.token_ids):
                sampled.append(sequence)
                rows.append(end - 1)
        num_decodes = len(decode_tokens)
        tokens[:num_decodes] = decode_tokens
        positions[:num_decodes] = decode_positions
        slots[:num_decodes] = decode_slots
        prompt_rows = []
        for sequence, first, num_tokens in chunks:
            self._fill_chunk(sequence, first, num_tokens)
            if sequence.wants_prompt_logprobs:
                start = sequence.num_computed_tokens
                num_rows = min(start + num_tokens, sequence.num_prompt_tokens - 1) - start
                if num_rows > 0:
                    prompt_rows.append(PromptRows(sequence, len(rows), start, num_rows))
                    rows.extend(range(first, first + num_rows))
        sampling = _lay_out_sampling(sampled, prompt_rows)
        allowed_tokens = self._fill_masks(sampled, sampling.rows)
        batch = Batch(
            token_ids=tokens[:end],
            positions=positions[:end],
            slot_mapping=slots[:end],
            block_tables=self._fill_block_tables(schedule.sequences),
            context_lens=np.array(context_lens, np.int32),
            query_start_loc=np.array([0, *ends], np.int32),
            state_slots=np.array([sequence.state_slot for sequence in schedule.sequences], np.int32),
            logits_rows=np.array(rows, np.int32),
            sampling=sampling.rows,
            history_tokens=sampling.history_tokens,
            bias_tokens=sampling.bias_tokens,
            bias_values=sampling.bias_values,
            allowed_tokens=allowed_tokens,
            max_logprobs=sampling.max_logprobs,
            wants_hidden=any(sequence.pooling for sequence in schedule.sequences),
            skips_head=all(sequence.pooling for sequence in schedule.sequences),
        )
        lengths = [len(sequence.token_ids) for sequence in sampled]
        return PreparedBatch(batch, sampled, prompt_rows, lengths, context_lens)

    def _fill_chunk(self, sequence: Sequence, first: int, num_tokens: int) -> None:
        start, size = sequence.num_computed_tokens, self.block_size
        last = first + num_tokens
        self._tokens[first:last] = sequence.token_ids[start : start + num_tokens]
        positions = np.arange(start, start + num_tokens, dtype=np.int32)
        self._positions[first:last] = positions
        blocks = np.array(
            sequence.block_table[start // size : (start + num_tokens - 1) // size + 1], np.int64
        )
        self._slots[first:last] = blocks[positions // size - start // size] * size + positions % size

    def _fill_masks(self, sampled: list[Sequence], rows: NDArray[np.void]) -> NDArray[np.uint32]:
        """The masks of the sequences that have a grammar; each row of `rows` learns which is its own."""
        grammars = [(row, sequence.grammar) for row, sequence in enumerate(sampled) if sequence.grammar]
        if len(grammars) > len(self._masks):
            self._masks = np.empty((len(grammars), self._masks.shape[1]), np.uint32)
        for mask_row, (row, grammar) in enumerate(grammars):
            grammar.fill_mask(self._masks[mask_row])
            rows[row]["mask_row"] = mask_row
        return self._masks[: len(grammars)]

    def _fill_block_tables(self, sequences: list[Sequence]) -> Int32:
        width = max(len(sequence.block_table) for sequence in sequences)
        tables = self._block_tables[: len(sequences) * width].reshape(len(sequences), width)
        for i, sequence in enumerate(sequences):
            tables[i, : len(sequence.block_table)] = sequence.block_table
        return tables


class _Sampling(NamedTuple):
    rows: NDArray[np.void]  # [R] of SAMPLING_DTYPE
    history_tokens: Int32
    bias_tokens: Int32
    bias_values: Float32
    max_logprobs: int


def _lay_out_sampling(sampled: list[Sequence], prompt_rows: list[PromptRows]) -> _Sampling:
    templates = [sequence.row_template for sequence in sampled]
    rows = np.frombuffer(bytearray().join([template.record for template in templates]), SAMPLING_DTYPE)
    rows["counter"] = [len(sequence.token_ids) for sequence in sampled]
    histories: list[Int32] = []
    bias_tokens: list[Int32] = []
    bias_values: list[Float32] = []
    history_end = bias_end = 0
    for row, sequence, template in zip(rows, sampled, templates, strict=True):
        if template.needs_history:
            histories.append(np.array(sequence.token_ids, np.int32))
            row["history_start"] = history_end
            row["prompt_end"] = history_end + sequence.num_prompt_tokens
            row["history_end"] = history_end = history_end + len(sequence.token_ids)
        if len(template.banned_tokens):
            is_banned = sequence.num_completion_tokens < sequence.params.min_tokens
            bias_tokens.append(template.banned_tokens if is_banned else template.bias_tokens)
            bias_values.append(template.banned_values if is_banned else template.bias_values)
            row["bias_start"] = bias_end
            row["bias_end"] = bias_end = bias_end + len(bias_tokens[-1])
    max_logprobs = max([template.num_logprobs for template in templates], default=0)
    for sequence, _, position, num_rows in prompt_rows:
        targets = np.array(sequence.token_ids[position + 1 : position + 1 + num_rows], np.int32)
        num_logprobs = sequence.params.prompt_logprobs or 0
        rows = np.concatenate([rows, forced_rows(targets, num_logprobs)])
        max_logprobs = max(max_logprobs, num_logprobs)
    return _Sampling(
        rows,
        np.concatenate(histories) if histories else NO_TOKENS,
        np.concatenate(bias_tokens) if bias_tokens else NO_TOKENS,
        np.concatenate(bias_values) if bias_values else NO_VALUES,
        max(max_logprobs, 0),
    )
