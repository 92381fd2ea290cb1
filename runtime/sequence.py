"""One stream of tokens being generated."""

from array import array
from dataclasses import dataclass, field
from enum import Enum

from pagedc.runtime.pooling import Pooling
from pagedc.runtime.row_template import RowTemplate
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.structured_output import GrammarState


class Status(Enum):
    """Where a sequence is; a preempted one is WAITING again."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


def int32_array(values: list[int] | bytes = b"") -> "array[int]":
    """Growable and C-contiguous: batches copy slices of it without visiting each token."""
    return array("i", values)


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Tokens, blocks and state; the scheduler, the block manager and the batch builder each read what they
    need.
    """

    seq_id: int  # in order of arrival
    request_id: str
    index: int  # which of the request's n
    token_ids: (
        "array[int]"  # prompt and completion; below 0 where the device has not said yet (look_ahead.py)
    )
    num_prompt_tokens: int
    params: SamplingParams
    row_template: RowTemplate  # how its rows of logits are sampled
    max_tokens: int  # of completion: the smaller of what was asked for and what max_model_len leaves
    stop_ids: frozenset[int] = frozenset()  # tokens that end it
    priority: int = 0  # smaller = sooner
    cache_salt: str = ""
    wants_prompt_logprobs: bool = False
    pooling: Pooling = ""
    arrived: float = 0.0  # on the monotonic clock
    queue_seconds: float | None = None  # until its first step
    grammar: GrammarState | None = None

    status: Status = Status.WAITING
    block_table: "array[int]" = field(default_factory=int32_array)
    state_slot: int = -1  # while it runs
    num_computed_tokens: int = 0  # whose keys and values are in the cache, or will be by the step that runs
    num_cached_tokens: int = 0  # of the prompt, found in the prefix cache when it was first allocated
    num_preemptions: int = 0
    block_hashes: list[bytes] = field(default_factory=list)  # of its full blocks, as far as computed
    num_committed_blocks: int = 0  # full blocks that the prefix cache has been told of

    @property
    def order(self) -> tuple[int, int]:
        """Smaller goes first and is preempted last."""
        return (self.priority, self.seq_id)

    @property
    def num_completion_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def is_complete(self) -> bool:
        """Whether it has all the tokens that it may have, if not all of them are known yet."""
        return self.num_completion_tokens >= self.max_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """1 while decoding; more while its prompt, tokens that its grammar forced, or all of it after a
        preemption are being prefilled.
        """
        return len(self.token_ids) - self.num_computed_tokens
