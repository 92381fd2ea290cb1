"""An executor whose "model" is a hash of the tokens it finds in its cache.

It stores each token at its slot and reads the context of every row back through the block table: a wrong
block, slot, position or length changes what is chosen, and so shows as a difference between two runs of the
same request.
"""

import copy
import hashlib

import numpy as np

from pagedc.runtime.batch import Batch, Float32, StepResult
from pagedc.runtime.config import EngineConfig


class MockExecutor:
    """Deterministic pseudo-logits [R, vocab_size] from each row's whole context; sampled as SAMPLING_DTYPE
    says.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.num_blocks = config.num_blocks
        self.num_steps = 0
        self.max_num_rows = 0
        self._cache = np.full(config.num_blocks * config.block_size, -1, np.int64)
        self._states: dict[int, list[int]] = {}  # slot → tokens since position 0

    def step(self, batch: Batch, *, want_logits: bool = False) -> StepResult:
        self._check(batch)
        self.num_steps += 1
        self.max_num_rows = max(self.max_num_rows, len(batch.logits_rows))
        stored = batch.slot_mapping >= 0
        self._cache[batch.slot_mapping[stored]] = batch.token_ids[stored]
        if not self.config.prefix_cache:  # a hit would leave the state behind
            self._continue_states(batch)
        logits = np.zeros((len(batch.logits_rows), self.config.vocab_size), np.float32)
        for i, row in enumerate(batch.logits_rows.tolist()):
            s = int(np.searchsorted(batch.query_start_loc, row, side="right")) - 1
            logits[i] = self._logits(self._context(batch, s, int(batch.positions[row]) + 1))
        result = self._sample(batch, logits, logits if want_logits else None)
        if batch.wants_hidden:
            result.hidden = logits[:, : self.config.hidden_size]
        return result

    def close(self) -> None:
        pass

    def _check(self, batch: Batch) -> None:
        config = self.config
        assert 0 < len(batch.token_ids) <= config.max_num_batched_tokens
        assert 0 < len(batch.context_lens) <= config.max_num_seqs
        assert len(batch.logits_rows) == len(batch.sampling) <= config.max_num_rows
        assert batch.query_start_loc[0] == 0
        assert batch.query_start_loc[-1] == len(batch.token_ids)
        assert len(np.unique(batch.slot_mapping)) == len(batch.slot_mapping)
        lengths = np.diff(batch.query_start_loc)
        assert (lengths > 0).all()
        assert len(np.unique(batch.state_slots)) == len(batch.state_slots) == len(lengths)
        assert ((batch.state_slots >= 0) & (batch.state_slots < config.max_num_seqs)).all()
        for s, (start, n) in enumerate(zip(batch.query_start_loc[:-1], lengths, strict=True)):
            positions = np.arange(batch.context_lens[s] - n, batch.context_lens[s])
            np.testing.assert_array_equal(batch.positions[start : start + n], positions)
            blocks = batch.block_tables[s, positions // config.block_size]
            slots = blocks * config.block_size + positions % config.block_size
            np.testing.assert_array_equal(batch.slot_mapping[start : start + n], slots)

    def _continue_states(self, batch: Batch) -> None:
        """A state is what a sequence's own tokens made of it, whoever had the slot before."""
        for s, slot in enumerate(batch.state_slots.tolist()):
            begin, end = batch.query_start_loc[s : s + 2].tolist()
            state = self._states.get(slot, []) if batch.positions[begin] > 0 else []
            self._states[slot] = [*state, *batch.token_ids[begin:end].tolist()]
            context = self._context(batch, s, int(batch.context_lens[s]))
            assert np.array(self._states[slot], np.int64).tobytes() == context

    def _context(self, batch: Batch, s: int, length: int) -> bytes:
        positions = np.arange(length)
        size = self.config.block_size
        tokens = self._cache[batch.block_tables[s, positions // size] * size + positions % size]
        assert (tokens >= 0).all(), "a token of the context was never stored"
        return tokens.tobytes()

    def _logits(self, context: bytes) -> Float32:
        key = int.from_bytes(hashlib.blake2b(context, digest_size=8).digest(), "little")
        return (
            np.random.Generator(np.random.Philox(key)).standard_normal(self.config.vocab_size, np.float32) * 3
        )

    def _sample(self, batch: Batch, logits: Float32, wanted: Float32 | None) -> StepResult:
        num_rows, k = len(logits), batch.max_logprobs
        token_ids = np.zeros(num_rows, np.int32)
        logprobs = np.zeros(num_rows, np.float32)
        top_ids, top_logprobs = np.zeros((num_rows, k), np.int32), np.zeros((num_rows, k), np.float32)
        for i, row in enumerate(batch.sampling):
            own = logits[i] - np.log(np.exp(logits[i]).sum())
            processed = self._process(logits[i].copy(), row, batch)
            if row["forced_token"] >= 0:
                token_ids[i] = row["forced_token"]
            elif row["temperature"] == 0:
                token_ids[i] = processed.argmax()
            else:
                random = np.random.Generator(
                    np.random.Philox(key=int(row["seed"]), counter=int(row["counter"]))
                )
                noise = random.gumbel(size=len(processed))
                token_ids[i] = (processed / row["temperature"] + noise).argmax()
            logprobs[i] = own[token_ids[i]]
            if row["num_logprobs"] > 0:
                order = np.argsort(-own, kind="stable")[: row["num_logprobs"]]
                top_ids[i, : len(order)], top_logprobs[i, : len(order)] = order, own[order]
        return StepResult(
            token_ids=token_ids, logprobs=logprobs, top_ids=top_ids, top_logprobs=top_logprobs, logits=wanted
        )

    def _process(self, logits: Float32, row: np.void, batch: Batch) -> Float32:
        history = batch.history_tokens[row["history_start"] : row["history_end"]]
        completion = batch.history_tokens[row["prompt_end"] : row["history_end"]]
        seen = np.unique(history)
        logits[seen] = np.where(
            logits[seen] > 0,
            logits[seen] / row["repetition_penalty"],
            logits[seen] * row["repetition_penalty"],
        )
        counts = np.bincount(completion, minlength=len(logits))
        logits -= row["frequency_penalty"] * counts + row["presence_penalty"] * (counts > 0)
        bias = slice(row["bias_start"], row["bias_end"])
        np.add.at(logits, batch.bias_tokens[bias], batch.bias_values[bias])
        if row["mask_row"] >= 0:
            mask = batch.allowed_tokens[row["mask_row"]]
            allowed = np.unpackbits(mask.view(np.uint8), bitorder="little", count=len(logits))
            logits[allowed == 0] = -np.inf
        return logits


class QueueingMock(MockExecutor):
    """The same, two steps at a time: a step runs when it is waited for, on copies of what was submitted."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.num_overlaps = 0
        self.boot_seconds = {"weights": 0.25}
        self.num_cold = 3
        self._submitted: list[Batch] = []
        self._chosen = np.empty(0, np.int32)  # by the step before

    def submit(self, batch: Batch) -> None:
        assert len(self._submitted) < 2
        self.num_overlaps += len(self._submitted)
        self._submitted.append(copy.deepcopy(batch))

    def warm_up(self) -> bool:
        self.num_cold -= 1
        return self.num_cold >= 0

    def wait(self) -> StepResult:
        batch = self._submitted.pop(0)
        for tokens in (batch.token_ids, batch.history_tokens):
            tokens[tokens < 0] = self._chosen[-1 - tokens[tokens < 0]]
        result = self.step(batch)
        self._chosen = result.token_ids.copy()
        return result
