"""What a caller in Python gets back, gathered from the engine's events."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pagedc.runtime.detokenizer import Detokenizer
from pagedc.runtime.errors import RequestError
from pagedc.runtime.messages import Logprob, TokenEvent
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.tokenizer import Tokenizer


@dataclass(slots=True)
class CompletionOutput:
    """One of the `n` sequences of a request."""

    index: int
    text: str = ""
    token_ids: list[int] = field(
        default_factory=list
    )  # with the token that ended it, which the text is without
    logprobs: list[Logprob] = field(default_factory=list)  # one a token, where asked for
    finish_reason: str | None = None  # "stop", "length"; None while it grows
    stop_reason: str | int | None = None  # the stop string that matched, or the token that ended it


@dataclass(slots=True)
class RequestOutput:
    """What one prompt brought."""

    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    num_cached_tokens: int = 0  # of the prompt, found in the prefix cache
    prompt_logprobs: list[Logprob | None] | None = None

    @property
    def text(self) -> str:
        """Of the first sequence."""
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        """Of the first sequence."""
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> str | None:
        """Of the first sequence."""
        return self.outputs[0].finish_reason


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """What one event added to one sequence."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[Logprob]
    finish_reason: str | None


class OutputCollector:
    """Turns events into text, and finds stop strings on the way."""

    def __init__(
        self, request_id: str, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], params: SamplingParams
    ) -> None:
        self.request_id = request_id
        self.embedding = b""  # float32, where it was asked for
        self._error: RequestError | None = None
        self.output = RequestOutput(list(prompt_token_ids), [CompletionOutput(i) for i in range(params.n)])
        self._detokenizers = [
            Detokenizer(tokenizer, stop=params.stop, prompt_token_ids=prompt_token_ids)
            for _ in range(params.n)
        ]

    @property
    def is_finished(self) -> bool:
        """Whether every sequence has ended, or the request failed."""
        return self._error is not None or all(
            output.finish_reason is not None for output in self.output.outputs
        )

    def fail(self, error: RequestError) -> None:
        """The engine gave the request up."""
        self._error = error

    def check(self) -> None:
        """Raise what `fail` was given."""
        if self._error is not None:
            raise self._error

    def add(self, event: TokenEvent) -> OutputDelta | None:
        """Take an event; None if its sequence has ended already.

        A sequence that ends with "stop" while the event had no finish_reason met a stop string: the caller
        aborts it in the engine.
        """
        output, detokenizer = self.output.outputs[event.index], self._detokenizers[event.index]
        if output.finish_reason is not None:
            return None
        if event.index == 0 and not output.token_ids:
            self.output.num_cached_tokens = event.num_cached_tokens
            self.output.prompt_logprobs = event.prompt_logprobs
        self.embedding = event.embedding
        output.token_ids += event.token_ids
        output.logprobs += event.logprobs
        is_stop_token = event.stop_token_id is not None
        text = detokenizer.add(event.token_ids[:-1] if is_stop_token else event.token_ids)
        finish_reason = "stop" if detokenizer.stop_string is not None else event.finish_reason
        if finish_reason is not None:
            text += detokenizer.finish()
            output.finish_reason = "stop" if detokenizer.stop_string is not None else finish_reason
            output.stop_reason = detokenizer.stop_string or event.stop_token_id
        output.text += text
        return OutputDelta(event.index, text, event.token_ids, event.logprobs, output.finish_reason)
