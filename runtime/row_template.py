"""What is the same in every row of logits that a sequence samples, laid out once when it is added."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagedc.runtime.batch import SAMPLING_DTYPE, Float32, Int32
from pagedc.runtime.sampling_params import SamplingParams

NO_TOKENS = np.empty(0, np.int32)
NO_VALUES = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class RowTemplate:
    """A row of SAMPLING_DTYPE but for its counter and slices, and what the slices are filled with."""

    record: bytes
    num_logprobs: int  # -1 = none
    needs_history: bool
    bias_tokens: Int32
    bias_values: Float32
    banned_tokens: Int32  # bias tokens and those that may not end the sequence before min_tokens
    banned_values: Float32


def make_row_template(params: SamplingParams, seed: int, stop_ids: frozenset[int]) -> RowTemplate:
    """Of a sequence whose random numbers are keyed by `seed`, 0 … 2⁶⁴ − 1."""
    record = np.zeros(1, SAMPLING_DTYPE)
    for name in (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    ):
        record[name] = getattr(params, name)
    record["num_logprobs"] = num_logprobs = -1 if params.logprobs is None else params.logprobs
    record["forced_token"] = record["mask_row"] = -1
    record["seed"] = seed
    bias_tokens = np.fromiter(params.logit_bias.keys(), np.int32, len(params.logit_bias))
    bias_values = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))
    banned = np.array(sorted(stop_ids) if params.min_tokens > 0 else [], np.int32)
    return RowTemplate(
        record=record.tobytes(),
        num_logprobs=num_logprobs,
        needs_history=(params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        != (1, 0, 0),
        bias_tokens=bias_tokens,
        bias_values=bias_values,
        banned_tokens=np.concatenate([bias_tokens, banned]),
        banned_values=np.concatenate([bias_values, np.full(len(banned), -np.inf, np.float32)]),
    )


def forced_rows(token_ids: Int32, num_logprobs: int) -> NDArray[np.void]:
    """Rows [len(token_ids)] that ask only for the logprob of each of these tokens, and the most likely
    ones.
    """
    rows = np.zeros(len(token_ids), SAMPLING_DTYPE)
    rows["top_p"] = rows["repetition_penalty"] = 1
    rows["mask_row"] = -1
    rows["forced_token"] = token_ids
    rows["num_logprobs"] = num_logprobs
    return rows
