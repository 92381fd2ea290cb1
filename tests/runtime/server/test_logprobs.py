"""Logprobs whose tokens are parts of characters, or impossible."""

from typing import Any

from pagedc.runtime.messages import Logprob
from pagedc.runtime.server.logprobs import CompletionLogprobs, chat_logprobs


class Bytes:
    """A tokenizer whose ids are bytes."""

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def token_text(self, token_id: int) -> str:
        return bytes([token_id]).decode("utf-8", "replace")


TOKENIZER: Any = Bytes()


def test_parts_of_characters_keep_their_own_names() -> None:
    growing = CompletionLogprobs(TOKENIZER, 2)
    entry = Logprob(0xC3, -0.1, [(0xC3, -0.1), (0xC4, -2.0), (0xC5, -3.0)])
    lists = growing.take([0xC3, 65], [entry, Logprob(65, -1.0, [])])
    assert lists["tokens"] == ["bytes:\\xc3", "A"]
    assert lists["top_logprobs"] == [{"bytes:\\xc3": -0.1, "bytes:\\xc4": -2.0}, {"A": -1.0}]
    assert lists["text_offset"] == [0, 1]


def test_offsets_go_on_from_call_to_call() -> None:
    growing = CompletionLogprobs(TOKENIZER, 0)
    growing.take([65, 66], [None, Logprob(66, -1.0)])
    assert growing.take([67], [Logprob(67, -1.0)])["text_offset"] == [2]


def test_a_probability_of_zero_is_a_number() -> None:
    entries = chat_logprobs([Logprob(65, float("-inf"), [(66, float("-inf"))])], TOKENIZER, 1)
    assert entries[0]["logprob"] == -9999.0
    assert entries[0]["top_logprobs"] == [{"token": "B", "logprob": -9999.0, "bytes": [66]}]
