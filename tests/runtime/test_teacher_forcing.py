"""Every token's logits, in order, whatever the chunks."""

import numpy as np
import pytest

from pagedc.runtime.batch import Batch, StepResult
from pagedc.runtime.config import EngineConfig
from pagedc.runtime.teacher_forcing import NUM_DECODED, teacher_force

VOCAB_SIZE = 50


class EchoExecutor:
    """Logits of a token: its id and its position; checks the layout of each batch."""

    num_blocks = 64

    def __init__(self) -> None:
        self.step_sizes: list[int] = []

    def step(self, batch: Batch, *, want_logits: bool = False) -> StepResult:
        assert want_logits
        num_tokens = len(batch.token_ids)
        self.step_sizes.append(num_tokens)
        assert batch.logits_rows.tolist() == list(range(num_tokens))
        assert batch.query_start_loc.tolist() == [0, num_tokens]
        assert batch.context_lens.tolist() == [batch.positions[-1] + 1]
        blocks = batch.block_tables[0][batch.positions // 4]
        assert (blocks * 4 + batch.positions % 4 == batch.slot_mapping).all()
        logits = np.zeros((num_tokens, VOCAB_SIZE), np.float32)
        logits[:, 0], logits[:, 1] = batch.token_ids, batch.positions
        empty = np.empty((num_tokens, 0))
        zeros = np.zeros(num_tokens)
        return StepResult(
            token_ids=zeros.astype(np.int32),
            logprobs=zeros.astype(np.float32),
            top_ids=empty.astype(np.int32),
            top_logprobs=empty.astype(np.float32),
            logits=logits,
        )

    def close(self) -> None:
        pass


@pytest.mark.parametrize("num_tokens", [1, 2, 63, 64, 65, 66, 100, 200])
def test_every_token_has_its_logits(num_tokens: int) -> None:
    config = EngineConfig(
        block_size=4,
        num_blocks=64,
        max_model_len=256,
        max_num_seqs=1,
        max_num_batched_tokens=48,
        max_num_rows=33,
        vocab_size=VOCAB_SIZE,
    )
    executor = EchoExecutor()
    token_ids = [7 * i % VOCAB_SIZE for i in range(num_tokens)]
    logits = np.concatenate(list(teacher_force(executor, config, token_ids)))
    assert logits[:, 0].tolist() == token_ids
    assert logits[:, 1].tolist() == list(range(num_tokens))
    assert max(executor.step_sizes) <= 33
    assert executor.step_sizes[1:][-NUM_DECODED:] == [1] * min(NUM_DECODED, num_tokens - 1)
