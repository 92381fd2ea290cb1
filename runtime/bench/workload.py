"""What is asked: prompts of drawn lengths, or those of a file."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagedc.runtime.errors import UsageError

# Token ids that any vocabulary has, and that are seldom special.
FIRST_ID, LAST_ID = 100, 999


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens: uniform from `low` to `high`."""

    low: int
    high: int

    def draw(self, random_numbers: random.Random) -> int:
        """One of them."""
        return random_numbers.randint(self.low, self.high)


def parse_lengths(text: str) -> Lengths:
    """ "128" or "64:256". Raises ValueError."""
    if not (match := re.fullmatch(r"(\d{1,7})(?::(\d{1,7}))?", text)):
        raise ValueError(f"{text!r} is not a number of tokens like 128 or a range like 64:256")
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high:
        raise ValueError(f"{text!r} is not a range of at least one token")
    return Lengths(low, high)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    prompt: str | list[int]
    max_tokens: int


def drawn(
    count: int, input_length: Lengths, output_length: Lengths, seed: int, last_id: int = LAST_ID
) -> list[Ask]:
    """Random token ids: no two prompts share a prefix worth caching."""
    numbers = random.Random(seed)
    first_id = min(FIRST_ID, last_id)
    return [
        Ask(
            [numbers.randint(first_id, last_id) for _ in range(input_length.draw(numbers))],
            output_length.draw(numbers),
        )
        for _ in range(count)
    ]


def from_file(path: Path, count: int, output_length: Lengths, seed: int) -> list[Ask]:
    """Prompts of a file, a line each: text, or JSON with `prompt` and perhaps `max_tokens`; from the start
    again where there are fewer than `count`. Raises UsageError."""
    numbers = random.Random(seed)
    try:
        lines = list(_prompts(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not lines:
        raise UsageError(f"{path} holds no prompt")
    chosen = [lines[i % len(lines)] for i in range(count)]
    return [Ask(prompt, tokens or output_length.draw(numbers)) for prompt, tokens in chosen]


def _prompts(path: Path) -> Iterator[tuple[str | list[int], int | None]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        if not line.startswith("{"):
            yield line, None
            continue
        record = json.loads(line)
        prompt, tokens = record.get("prompt"), record.get("max_tokens")
        if not isinstance(prompt, str | list) or not isinstance(tokens, int | None):
            raise ValueError(f"line {number} has no prompt, or a max_tokens that is no number")
        yield prompt, tokens


def request_body(ask: Ask, model: str, *, chat: bool, ignore_eos: bool) -> dict[str, Any]:
    """What is POSTed. Raises UsageError for a chat that is token ids."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": ask.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ignore_eos:  # not of OpenAI's surface, but of vLLM's, llama-server's and pagedc's
        body["ignore_eos"] = True
    if not chat:
        return body | {"prompt": ask.prompt}
    text = ask.prompt if isinstance(ask.prompt, str) else " ".join(str(token) for token in ask.prompt)
    return body | {"messages": [{"role": "user", "content": text}]}
