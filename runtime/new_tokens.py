"""What a sampled token adds to its sequence: itself, what a grammar forces behind it, perhaps an end."""

from collections.abc import Set
from typing import NamedTuple

from pagedc.runtime.sequence import Sequence


class NewTokens(NamedTuple):
    """What one step adds to a sequence."""

    token_ids: list[int]
    finish_reason: str | None
    stop_token_id: int | None


def put_token(sequence: Sequence, position: int, token_id: int, eos_token_ids: Set[int]) -> NewTokens:
    """Put a token in its place, and behind it those that are forced, as far as the sequence may grow."""
    grammar, params = sequence.grammar, sequence.params
    sequence.token_ids[position] = token_id
    taken: list[int] = []
    pending = [token_id]
    while pending:
        for each in pending:
            if taken:
                sequence.token_ids.append(each)
            taken.append(each)
            num_tokens = position + len(taken) - sequence.num_prompt_tokens
            if each in sequence.stop_ids and num_tokens > params.min_tokens:
                return NewTokens(taken, "stop", each)
            if grammar is not None:
                grammar.take(each)
                if grammar.is_finished and not grammar.error:
                    return NewTokens(taken, "stop", each if each in eos_token_ids else None)
            if num_tokens >= sequence.max_tokens:
                return NewTokens(taken, "length", None)
        # A forced token has no row of logits, and so no logprob.
        pending = grammar.forced_tokens() if grammar is not None and params.logprobs is None else []
    return NewTokens(taken, None, None)
