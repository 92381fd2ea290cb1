"""Answers of both endpoints, whole or in chunks: deltas go in, JSON comes out."""

from collections.abc import Sequence
from typing import Any

from pagedc.runtime.messages import Logprob
from pagedc.runtime.server.failures import Failure
from pagedc.runtime.server.generation import Choice, Delta, Generation
from pagedc.runtime.server.protocol import GenerationRequest
from pagedc.runtime.server.served_model import ServedModel
from pagedc.runtime.server.sse import DONE, ChunkTemplate, sse_event


class Answer:
    """What one request is answered with; a subclass knows its endpoint's names."""

    object_name: str
    chunk_name: str

    def __init__(
        self,
        response_id: str,
        created: int,
        request: GenerationRequest,
        generation: Generation,
        model: ServedModel,
    ) -> None:
        self.request = request
        self.generation = generation
        self.model = model
        self.tokenizer = model.tokenizer
        self.wants_token_ids = bool(request.return_token_ids)
        self.wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._head = {"id": response_id, "created": created, "model": request.model}
        self._templates: dict[int, ChunkTemplate] = {}
        self._opened: set[int] = set()
        num_choices = len(generation.choices)
        self._texts: list[list[str]] = [[] for _ in range(num_choices)]
        self._token_ids: list[list[int]] = [[] for _ in range(num_choices)]
        self._logprobs: list[list[Logprob]] = [[] for _ in range(num_choices)]

    # A whole answer.

    def collect(self, delta: Delta) -> None:
        """Keep what an event brought."""
        index = delta.choice.index
        self._texts[index].append(delta.text)
        self._token_ids[index] += delta.token_ids
        self._logprobs[index] += delta.logprobs

    def response(self) -> dict[str, Any]:
        """The whole answer, once all choices are finished."""
        return {
            **self._head,
            "object": self.object_name,
            "choices": [
                self.whole_choice(choice, "".join(self._texts[i]), self._token_ids[i], self._logprobs[i])
                for i, choice in enumerate(self.generation.choices)
            ],
            "usage": self.usage(),
            "system_fingerprint": self.model.fingerprint,
        }

    def whole_choice(
        self, choice: Choice, text: str, token_ids: list[int], logprobs: list[Logprob]
    ) -> dict[str, Any]:
        """One choice of a whole answer."""
        raise NotImplementedError

    def usage(self) -> dict[str, Any]:
        """Token counts, as far as they are known now."""
        usage = self.generation.usage
        return {
            "prompt_tokens": usage.num_prompt_tokens,
            "completion_tokens": usage.num_completion_tokens,
            "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
        }

    # A stream.

    def stream(self, delta: Delta) -> bytes:
        """The events that a delta makes; b"" while its text is held back."""
        index = delta.choice.index
        events = self.open(delta.choice)
        if self.wants_token_ids or delta.logprobs:
            if delta.text or delta.token_ids or delta.logprobs:
                events += sse_event(self.detailed_chunk(delta))
        elif delta.text:
            template = self._templates.get(index)
            if template is None:
                template = self._templates[index] = ChunkTemplate(self.text_chunk(index, ChunkTemplate.HOLE))
            events += template.fill(delta.text)
        if delta.finish_reason is not None:
            events += sse_event(self.final_chunk(delta.choice))
        return events

    def open(self, choice: Choice) -> bytes:
        """What comes before the first events of a choice; nothing before its others."""
        if choice.index in self._opened:
            return b""
        self._opened.add(choice.index)
        return self.opening(choice)

    def stream_end(self) -> bytes:
        """The last events of a stream."""
        usage = sse_event({**self.chunk([]), "usage": self.usage()}) if self.wants_usage else b""
        return usage + DONE

    def stream_error(self, failure: Failure) -> bytes:
        """The event that ends a broken stream."""
        return sse_event(failure.body)

    def chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One chunk around its choices."""
        chunk = {
            **self._head,
            "object": self.chunk_name,
            "system_fingerprint": self.model.fingerprint,
            "choices": choices,
        }
        if self.wants_usage:
            chunk["usage"] = None
        return chunk

    def opening(self, choice: Choice) -> bytes:
        """Events before the first text of a choice."""
        raise NotImplementedError

    def text_chunk(self, index: int, text: str) -> dict[str, Any]:
        """A chunk that holds text and nothing else."""
        raise NotImplementedError

    def detailed_chunk(self, delta: Delta) -> dict[str, Any]:
        """A chunk with logprobs or token ids."""
        raise NotImplementedError

    def final_chunk(self, choice: Choice) -> dict[str, Any]:
        """The chunk that says why a choice ended."""
        raise NotImplementedError
