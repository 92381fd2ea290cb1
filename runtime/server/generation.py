"""One HTTP request's work: its prompts through the engine, and each sequence's tokens to text.

The engine deals in token ids; text, stop strings and the figures of latency are made here.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from time import perf_counter
from typing import NamedTuple, cast

from pagedc.runtime.detokenizer import Detokenizer
from pagedc.runtime.event_stream import Taker
from pagedc.runtime.messages import Logprob, TokenEvent
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.server.hosted_model import HostedModel
from pagedc.runtime.server.prompts import Prompt
from pagedc.runtime.server.reading import PLAIN, Reading
from pagedc.runtime.tool_parsers.answer import AnswerParser
from pagedc.runtime.tool_parsers.events import CallEnd, Event


class Choice:
    """One answer as it grows."""

    __slots__ = (
        "detokenizer",
        "finish_reason",
        "first_time",
        "index",
        "last_time",
        "num_tokens",
        "parser",
        "prompt_index",
        "stop",
    )

    def __init__(
        self, index: int, prompt_index: int, detokenizer: Detokenizer, parser: AnswerParser | None
    ) -> None:
        self.index = index  # in the response
        self.prompt_index = prompt_index
        self.detokenizer = detokenizer
        self.parser = parser
        self.num_tokens = 0
        self.first_time = 0.0
        self.last_time = 0.0
        self.finish_reason: str | None = None
        self.stop: str | int | None = None  # the stop string or stop token that ended it


class Delta(NamedTuple):
    """What one event added to one choice."""

    choice: Choice
    text: str
    token_ids: Sequence[int]  # with the token that ended it
    logprobs: Sequence[Logprob]
    finish_reason: str | None
    events: Sequence[Event] = ()  # what the choice's parser, if it has one, made of the text


class Usage(NamedTuple):
    """Tokens of a request, over all its choices."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int


class Generation:
    """The sequences of one request: `len(prompts) * params.n` choices, numbered prompt by prompt."""

    def __init__(
        self,
        hosted: HostedModel,
        request_id: str,
        prompts: list[Prompt],
        params: SamplingParams,
        *,
        priority: int,
        cache_salt: str,
        skip_special_tokens: bool,
        logprobs_of_stop_token: bool,
        reading: Reading = PLAIN,
        arrived: float,
    ) -> None:
        self.prompts = prompts
        self.params = params
        self.prompt_logprobs: list[list[Logprob | None] | None] = [None] * len(prompts)
        self.choices = [
            Choice(
                index,
                index // params.n,
                Detokenizer(
                    hosted.model.tokenizer,
                    stop=params.stop,
                    skip_special_tokens=skip_special_tokens,
                    kept_ids=reading.kept_ids,
                    prompt_token_ids=prompts[index // params.n].token_ids,
                ),
                reading.make_parser(prompts[index // params.n].token_ids),
            )
            for index in range(len(prompts) * params.n)
        ]
        self.model_name = hosted.model.name
        self._engine = hosted.engine
        self._metrics = hosted.metrics
        self._prompt_index = {f"{request_id}-{i}": i for i in range(len(prompts))}
        self._priority = priority
        self._cache_salt = cache_salt
        self._logprobs_of_stop_token = logprobs_of_stop_token
        self._is_single_call = reading.is_single_call
        self._arrived = arrived
        self._submitted = arrived  # to the engine
        self._queue_seconds: float | None = None  # of the first sequence that ran
        self._num_cached: dict[int, int] = {}  # by prompt, known with its first event
        for prompt in prompts:
            self._metrics.request_prompt_tokens.observe(len(prompt.token_ids))

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            sum(len(prompt.token_ids) for prompt in self.prompts),
            sum(choice.num_tokens for choice in self.choices),
            sum(self._num_cached.values()),
        )

    def events(self, take: Taker) -> AsyncGenerator[TokenEvent, None]:
        """Everything the engine says of this request but what `take` takes as it arrives; closing it aborts
        what still runs.
        """
        is_single = len(self.prompts) == 1  # else events wait for each other in more than one place
        self._submitted = perf_counter()
        sources = [
            cast(
                AsyncGenerator[TokenEvent, None],
                self._engine.generate(
                    request_id,
                    prompt.token_ids,
                    self.params,
                    priority=self._priority,
                    cache_salt=self._cache_salt,
                    take=take if is_single else None,
                ),
            )
            for request_id, prompt in zip(self._prompt_index, self.prompts, strict=True)
        ]
        return sources[0] if is_single else _merge(sources)

    def apply(self, event: TokenEvent) -> Delta | None:
        """What an event adds to its choice; None if that has ended already."""
        prompt_index = self._prompt_index[event.request_id]
        choice = self.choices[prompt_index * self.params.n + event.index]
        if choice.finish_reason is not None:
            return None
        token_ids, logprobs, finish_reason = event.token_ids, event.logprobs, event.finish_reason
        if not choice.num_tokens and prompt_index not in self._num_cached:
            self._num_cached[prompt_index] = event.num_cached_tokens
            self.prompt_logprobs[prompt_index] = event.prompt_logprobs
        if token_ids:
            if not choice.num_tokens:
                self._metrics.request_queue_time.observe(event.queue_seconds)
                if self._queue_seconds is None:
                    self._queue_seconds = event.queue_seconds
            self._observe(choice, len(token_ids))
        detokenizer = choice.detokenizer
        if event.stop_token_id is None:
            text = detokenizer.add(token_ids)
        else:
            choice.stop = event.stop_token_id
            text = detokenizer.add(token_ids[:-1])
            if not self._logprobs_of_stop_token:
                logprobs = logprobs[:-1]
        if detokenizer.stop_string is not None:
            choice.stop = detokenizer.stop_string
            if finish_reason is None:
                self._engine.abort(event.request_id, event.index)
            finish_reason = "stop"
        if finish_reason is not None:
            text += detokenizer.finish()
        parsed = _parse(choice.parser, text, finish_reason is not None) if choice.parser else ()
        if self._is_single_call and any(isinstance(each, CallEnd) for each in parsed):
            if finish_reason is None:
                self._engine.abort(event.request_id, event.index)
            parsed, finish_reason = _up_to_first_call(parsed), "stop"
        if finish_reason is not None:
            choice.finish_reason = finish_reason
            self._observe_end(choice)
        return Delta(choice, text, token_ids, logprobs, finish_reason, parsed)

    def phases(self) -> list[tuple[str, float, float]]:
        """Name, begin and end (of perf_counter) of what has been done so far: prepare, queue, prefill,
        decode.
        """
        found = [("prepare", self._arrived, self._submitted)]
        begun = [choice for choice in self.choices if choice.num_tokens]
        if not begun or self._queue_seconds is None:
            return [*found, ("queue", self._submitted, perf_counter())]
        started = self._submitted + self._queue_seconds
        first, last = min(each.first_time for each in begun), max(each.last_time for each in begun)
        return [
            *found,
            ("queue", self._submitted, started),
            ("prefill", started, first),
            ("decode", first, last),
        ]

    def close(self) -> None:
        """Count the choices that nobody waits for any more."""
        for choice in self.choices:
            if choice.finish_reason is None:
                self._metrics.finished["abort"] += 1

    def _observe(self, choice: Choice, num_tokens: int) -> None:
        now = perf_counter()
        if choice.num_tokens:
            self._metrics.inter_token_latency.observe(now - choice.last_time)
        else:
            self._metrics.time_to_first_token.observe(now - self._arrived)
            choice.first_time = now
        choice.last_time = now
        choice.num_tokens += num_tokens

    def _observe_end(self, choice: Choice) -> None:
        metrics = self._metrics
        metrics.e2e_request_latency.observe(perf_counter() - self._arrived)
        metrics.request_generation_tokens.observe(choice.num_tokens)
        if choice.num_tokens > 1:
            metrics.time_per_output_token.observe(
                (choice.last_time - choice.first_time) / (choice.num_tokens - 1)
            )
        metrics.finished[choice.finish_reason or ""] += 1


def _parse(parser: AnswerParser, text: str, is_last: bool) -> Sequence[Event]:
    events = parser.feed(text)
    return [*events, *parser.finish()] if is_last else events


def _up_to_first_call(events: Sequence[Event]) -> list[Event]:
    position = next(i for i, event in enumerate(events) if isinstance(event, CallEnd))
    return list(events[: position + 1])


async def _merge(sources: list[AsyncGenerator[TokenEvent, None]]) -> AsyncGenerator[TokenEvent, None]:
    """The events of several generators as they come; the first error ends all."""
    queue: asyncio.Queue[TokenEvent | BaseException | None] = asyncio.Queue()

    async def pump(source: AsyncGenerator[TokenEvent, None]) -> None:
        try:
            async for event in source:
                queue.put_nowait(event)
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.ensure_future(pump(source)) for source in sources]
    try:
        num_left = len(sources)
        while num_left:
            item = await queue.get()
            if item is None:
                num_left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
