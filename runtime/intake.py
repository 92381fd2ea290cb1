"""From a request to its sequences: what is checked of it, and what follows from its parameters."""

import os
import time
from collections.abc import Set

from pagedc.runtime.config import EngineConfig
from pagedc.runtime.errors import ContextLengthError, RequestError
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.row_template import make_row_template
from pagedc.runtime.sequence import Sequence, int32_array


def check_request(request: AddRequest, config: EngineConfig) -> None:
    """Raises RequestError for what no engine of this config can serve."""
    params, prompt, vocab_size = request.params, request.prompt_token_ids, config.vocab_size
    if not prompt:
        raise RequestError("the prompt is empty: at least one token is needed")
    if len(prompt) >= config.max_model_len:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens, but max_model_len is {config.max_model_len} "
            "and at least one token is to be generated"
        )
    for name, token_ids in (
        ("prompt", prompt),
        ("stop_token_ids", params.stop_token_ids),
        ("logit_bias", params.logit_bias),
    ):
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
            wrong = next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)
            raise RequestError(f"{name} holds token id {wrong}, not in [0, {vocab_size})", param=name)
    if not (request.pooling or config.generates):
        raise RequestError("this model has no head to generate with: it gives embeddings", param="model")
    if request.pooling and (config.hidden_size == 0 or params.n > 1):
        raise RequestError("this package's program gives no hidden states", param="pooling")
    if params.n > config.max_num_seqs:
        raise RequestError(f"n is {params.n}, above max_num_seqs, {config.max_num_seqs}", param="n")


def make_sequences(
    request: AddRequest, config: EngineConfig, first_id: int, eos_token_ids: Set[int]
) -> list[Sequence]:
    """The `n` sequences of a request, numbered from `first_id`."""
    params, prompt = request.params, request.prompt_token_ids
    room = config.max_model_len - len(prompt)
    stop_ids = frozenset(params.stop_token_ids)
    if not params.ignore_eos:
        stop_ids |= eos_token_ids
    base_seed = params.seed if params.seed is not None else int.from_bytes(os.urandom(8), "little") >> 1
    arrived = time.monotonic()
    return [
        Sequence(
            seq_id=first_id + i,
            request_id=request.request_id,
            index=i,
            token_ids=int32_array(prompt),
            num_prompt_tokens=len(prompt),
            params=params,
            row_template=make_row_template(params, derive_seed(base_seed, i), stop_ids),
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            stop_ids=stop_ids,
            priority=request.priority,
            cache_salt=request.cache_salt,
            # All rows of its prompt, none of them found in the prefix cache: what pooling needs too.
            wants_prompt_logprobs=(params.prompt_logprobs is not None and i == 0)
            or request.pooling in ("mean", "cls"),
            pooling=request.pooling,
            arrived=arrived,
        )
        for i in range(params.n)
    ]


def derive_seed(seed: int, index: int) -> int:
    """The key of the `index`-th sequence's random numbers: output `index` of splitmix64 begun at `seed`."""
    mask = 2**64 - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)
