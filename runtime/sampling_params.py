"""How the tokens of one sequence are chosen, and when it ends."""

from typing import Any

import msgspec

MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024


class SamplingParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Checked at the door: ValueError names the field, the value and the range."""

    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None  # None = drawn when the request is added
    n: int = 1
    max_tokens: int | None = None  # None = up to max_model_len
    min_tokens: int = 0
    stop: list[str] = []  # matched on text, by the front end
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    logprobs: int | None = None  # None = none, 0 = of the chosen token, n = and of the n most likely
    prompt_logprobs: int | None = None
    grammar: str = ""  # what the completion must be, of grammars.py; "" = anything

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, 2)
        _check("top_p", self.top_p, 0, 1)
        _check("top_k", self.top_k, 0, 2**31 - 1)
        _check("min_p", self.min_p, 0, 1)
        _check("presence_penalty", self.presence_penalty, -2, 2)
        _check("frequency_penalty", self.frequency_penalty, -2, 2)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check("n", self.n, 1, 128)
        _check("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.top_p == 0:
            raise ValueError("top_p is 0, not in (0, 1]")
        if self.grammar and self.ignore_eos:
            raise ValueError("ignore_eos is true, but a grammar says where its text ends")
        if self.seed is not None:
            _check("seed", self.seed, -(2**63), 2**64 - 1)
        if self.max_tokens is not None:
            _check("max_tokens", self.max_tokens, 1, 2**31 - 1)
            if self.min_tokens > self.max_tokens:
                raise ValueError(f"min_tokens is {self.min_tokens}, above max_tokens, {self.max_tokens}")
        for name, value in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if value is not None:
                _check(name, value, 0, MAX_LOGPROBS)
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise ValueError(f"logit_bias has {len(self.logit_bias)} entries, above {MAX_LOGIT_BIAS}")
        for token_id, bias in self.logit_bias.items():
            _check(f"logit_bias[{token_id}]", bias, -100, 100)


def _check(name: str, value: Any, low: float, high: float) -> None:
    if not low <= value <= high:  # also False for NaN
        raise ValueError(f"{name} is {value}, not in [{low}, {high}]")
