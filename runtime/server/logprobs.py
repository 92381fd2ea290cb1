"""Logprobs as the two endpoints, and vLLM's prompt_logprobs, write them."""

from collections.abc import Iterable, Sequence
from typing import Any

from pagedc.runtime.messages import Logprob
from pagedc.runtime.tokenizer import Tokenizer

LOWEST = -9999.0  # OpenAI's for a probability of zero: JSON has no infinity


def finite(logprob: float) -> float:
    """A logprob that JSON can hold."""
    return logprob if logprob > LOWEST else LOWEST


def chat_logprobs(entries: Iterable[Logprob], tokenizer: Tokenizer, num_top: int) -> list[dict[str, Any]]:
    """Entries of a chat choice's `logprobs.content`."""
    return [
        {
            **_token(entry.token_id, entry.logprob, tokenizer),
            "top_logprobs": [
                _token(token_id, logprob, tokenizer) for token_id, logprob in entry.top[:num_top]
            ],
        }
        for entry in entries
    ]


def _token(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "token": tokenizer.token_text(token_id),
        "logprob": finite(logprob),
        "bytes": list(tokenizer.token_bytes(token_id)),
    }


class CompletionLogprobs:
    """A completion choice's `logprobs`: four lists that grow side by side."""

    def __init__(self, tokenizer: Tokenizer, num_top: int) -> None:
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._offset = 0  # characters of the choice's text so far

    def take(self, token_ids: Sequence[int], entries: Sequence[Logprob | None]) -> dict[str, list[Any]]:
        """The four lists for these tokens; an entry of None is the first token of a prompt."""
        tokens: list[str] = []
        logprobs: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token_id, entry in zip(token_ids, entries, strict=True):
            token = self._name(token_id)
            tokens.append(token)
            offsets.append(self._offset)
            self._offset += len(self._tokenizer.token_text(token_id))
            if entry is None:
                logprobs.append(None)
                tops.append(None)
                continue
            logprobs.append(finite(entry.logprob))
            top = {self._name(top_id): finite(logprob) for top_id, logprob in entry.top[: self._num_top]}
            top.setdefault(token, finite(entry.logprob))
            tops.append(dict(sorted(top.items(), key=lambda pair: -pair[1])))
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}

    def _name(self, token_id: int) -> str:
        """A token's text, or its bytes where they are part of a character: names in a dict must differ."""
        data = self._tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def prompt_logprobs(
    entries: Sequence[Logprob | None] | None, tokenizer: Tokenizer, num_top: int
) -> list[dict[str, Any] | None] | None:
    """vLLM's form: for each token of the prompt, by token id, the chosen and the most likely."""
    if entries is None:
        return None
    answer: list[dict[str, Any] | None] = []
    for entry in entries:
        if entry is None:
            answer.append(None)
            continue
        pairs = {entry.token_id: entry.logprob, **dict(entry.top[:num_top])}
        answer.append(
            {
                str(token_id): {"logprob": finite(logprob), "decoded_token": tokenizer.token_text(token_id)}
                for token_id, logprob in pairs.items()
            }
        )
    return answer
