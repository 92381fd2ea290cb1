"""POST /v1/completions and /v1/chat/completions: from a body to an answer, whole or as a stream."""

import asyncio
import secrets
from contextlib import aclosing
from time import perf_counter, time
from typing import ClassVar

from tornado.iostream import StreamClosedError

from pagedc.runtime.grammars import GrammarSource
from pagedc.runtime.messages import TokenEvent
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.server.answers import Answer
from pagedc.runtime.server.chat_answer import ChatAnswer
from pagedc.runtime.server.completion_answer import CompletionAnswer
from pagedc.runtime.server.failures import failure_of
from pagedc.runtime.server.generation import Generation
from pagedc.runtime.server.handlers.base import BaseHandler
from pagedc.runtime.server.hosted_model import HostedModel
from pagedc.runtime.server.prompts import Prompt, chat_prompt, completion_prompts
from pagedc.runtime.server.protocol import ChatCompletionRequest, CompletionRequest, GenerationRequest
from pagedc.runtime.server.reading import PLAIN, Reading, make_reading
from pagedc.runtime.server.refusals import invalid, unsupported
from pagedc.runtime.server.sse import EventStream
from pagedc.runtime.server.structured import chat_grammar_source, grammar_source
from pagedc.runtime.server.tools import offered
from pagedc.runtime.server.validation import (
    DEFAULT_COMPLETION_TOKENS,
    check_chat,
    check_completion,
    room_for,
    sampling_params,
)


class GenerateHandler(BaseHandler):
    """What both endpoints share; a subclass reads the request and names the answer."""

    allowed_methods = ("POST",)
    hosted: HostedModel  # named by the request: known once it is read
    id_prefix: ClassVar[str]
    answer_type: ClassVar[type[Answer]]

    async def post(self) -> None:
        """Answer, unless the client leaves before."""
        await self.while_connected(self._serve())

    def read(self) -> GenerationRequest:
        """The checked body."""
        raise NotImplementedError

    def num_sequences(self, request: GenerationRequest) -> int:
        """How many sequences a request asks for, before its prompts are tokenized."""
        return request.n or 1

    async def prompts(self, request: GenerationRequest) -> list[Prompt]:
        """The request's prompts."""
        raise NotImplementedError

    def params(self, request: GenerationRequest, num_prompt_tokens: int, grammar: str) -> SamplingParams:
        """How its tokens are chosen; `num_prompt_tokens` of the longest prompt."""
        raise NotImplementedError

    def reading(self, request: GenerationRequest) -> Reading:
        """How its answers' text is read."""
        return PLAIN

    def grammar_source(
        self, request: GenerationRequest, reading: Reading, prompts: list[Prompt]
    ) -> GrammarSource | None:
        """What its answers must look like."""
        return grammar_source(request)

    def make_answer(self, response_id: str, request: GenerationRequest, generation: Generation) -> Answer:
        """What takes the deltas up."""
        return self.answer_type(response_id, int(time()), request, generation, self.hosted.model)

    async def _serve(self) -> None:
        arrived = perf_counter()
        request = self.read()
        hosted = self.hosted
        with self.state.admit(hosted, self.num_sequences(request)):
            await hosted.wait_started()
            prompts = await self.prompts(request)
            reading = self.reading(request)
            source = self.grammar_source(request, reading, prompts)
            grammar = ""
            if source is not None:
                hosted.engine.prepare_grammars()
                grammar = await asyncio.to_thread(self.state.grammars.check, source)
            params = self.params(request, max(len(prompt.token_ids) for prompt in prompts), grammar)
            response_id = self.id_prefix + secrets.token_hex(16)
            generation = self.generation = Generation(
                hosted,
                response_id,
                prompts,
                params,
                priority=request.priority or 0,
                cache_salt=request.cache_salt or "",
                skip_special_tokens=request.skip_special_tokens is not False,
                logprobs_of_stop_token=bool(request.return_token_ids),
                reading=reading,
                arrived=arrived,
            )
            if not self.is_id_given:
                self.request_id = response_id
                self.set_header("X-Request-Id", response_id)
            answer = self.make_answer(response_id, request, generation)
            try:
                if request.stream:
                    await self._stream(generation, answer)
                else:
                    await self._collect(generation, answer)
            finally:
                generation.close()

    async def _collect(self, generation: Generation, answer: Answer) -> None:
        def take(event: TokenEvent) -> bool:
            if (delta := generation.apply(event)) is not None:
                answer.collect(delta)
            return True

        async with aclosing(generation.events(take)) as events:
            async for event in events:
                take(event)
        self.send_json(answer.response())

    async def _stream(self, generation: Generation, answer: Answer) -> None:
        stream = EventStream(self, self.state.limits.write_timeout)

        def data_of(event: TokenEvent) -> bytes:
            delta = generation.apply(event)
            return b"" if delta is None else answer.stream(delta)

        def take(event: TokenEvent) -> bool:
            if not stream.is_free:
                return False
            if data := data_of(event):
                stream.send_now(data)
            return True

        try:
            async with aclosing(generation.events(take)) as events:
                async for event in events:
                    if data := data_of(event):
                        await stream.send(data)
            await stream.send(answer.stream_end())
        except StreamClosedError:
            raise
        except Exception as error:
            if not stream.is_started:
                raise
            # The status is out: the error is the last event, and no [DONE] follows.
            self.log_exception(type(error), error, error.__traceback__)
            failure = failure_of(error)
            self.state.rejected[str(failure.status)] += 1
            await stream.send(answer.stream_error(failure))
        await self.finish()


class CompletionsHandler(GenerateHandler):
    """POST /v1/completions."""

    id_prefix = "cmpl-"
    answer_type = CompletionAnswer

    def read(self) -> CompletionRequest:
        """The checked body."""
        request = self.json_body(CompletionRequest)
        self.hosted = self.state.find(request.model)
        check_completion(request, self.state.limits)
        if (count := self.num_sequences(request)) > self.state.limits.max_sequences:
            raise invalid("n", f"prompts times n is {count}, above {self.state.limits.max_sequences}")
        return request

    def num_sequences(self, request: GenerationRequest) -> int:
        """Prompts times n."""
        assert isinstance(request, CompletionRequest)
        prompt = request.prompt
        is_one = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], int))
        return (request.n or 1) * (1 if is_one else len(prompt))

    async def prompts(self, request: GenerationRequest) -> list[Prompt]:
        """Texts are tokenized, token ids checked."""
        assert isinstance(request, CompletionRequest)
        return await completion_prompts(
            request.prompt,
            self.hosted.model,
            self.state.limits,
            add_special_tokens=request.add_special_tokens is not False,
        )

    def params(self, request: GenerationRequest, num_prompt_tokens: int, grammar: str) -> SamplingParams:
        """Sixteen tokens where no number is given; with echo and logprobs, the prompt's logprobs too."""
        assert isinstance(request, CompletionRequest)
        asked = 1 if request.max_tokens == 0 else request.max_tokens
        echoed = request.logprobs if request.echo else None
        wanted = [count for count in (echoed, request.prompt_logprobs) if count is not None]
        return sampling_params(
            request,
            self.hosted.model.default_sampling,
            max_tokens=room_for(
                num_prompt_tokens, asked, DEFAULT_COMPLETION_TOKENS, self.hosted.max_model_len
            ),
            logprobs=request.logprobs,
            prompt_logprobs=max(wanted, default=None),
            vocab_size=self.hosted.model.vocab_size,
            grammar=grammar,
        )


class ChatCompletionsHandler(GenerateHandler):
    """POST /v1/chat/completions."""

    id_prefix = "chatcmpl-"
    answer_type: ClassVar[type[Answer]] = ChatAnswer

    def read(self) -> ChatCompletionRequest:
        """The checked body."""
        request = self.json_body(ChatCompletionRequest)
        self.hosted = self.state.find(request.model)
        check_chat(request, self.state.limits)
        if request.add_special_tokens:
            raise unsupported("add_special_tokens", "the chat template writes its own")
        return request

    async def prompts(self, request: GenerationRequest) -> list[Prompt]:
        """The one conversation."""
        assert isinstance(request, ChatCompletionRequest)
        return [await chat_prompt(request, request.messages, self.hosted.model, self.state.limits)]

    def reading(self, request: GenerationRequest) -> Reading:
        """With its calls and its reasoning apart."""
        assert isinstance(request, ChatCompletionRequest)
        return make_reading(
            self.hosted.model,
            offers_tools=bool(offered(request)),
            is_single_call=request.parallel_tool_calls is False,
        )

    def grammar_source(
        self, request: GenerationRequest, reading: Reading, prompts: list[Prompt]
    ) -> GrammarSource | None:
        """That of its calls where it must make one; reasoning may come before what is asked for."""
        assert isinstance(request, ChatCompletionRequest)
        return chat_grammar_source(request, reading, prompts[0].token_ids)

    def params(self, request: GenerationRequest, num_prompt_tokens: int, grammar: str) -> SamplingParams:
        """All the room that the context has where no number is given."""
        assert isinstance(request, ChatCompletionRequest)
        asked = request.max_tokens if request.max_tokens is not None else request.max_completion_tokens
        return sampling_params(
            request,
            self.hosted.model.default_sampling,
            max_tokens=room_for(num_prompt_tokens, asked, None, self.hosted.max_model_len),
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            prompt_logprobs=request.prompt_logprobs,
            vocab_size=self.hosted.model.vocab_size,
            grammar=grammar,
        )
