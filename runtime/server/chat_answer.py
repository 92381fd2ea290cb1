"""The answers of /v1/chat/completions."""

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pagedc.runtime.messages import Logprob
from pagedc.runtime.server.answers import Answer
from pagedc.runtime.server.generation import Choice, Delta
from pagedc.runtime.server.logprobs import chat_logprobs, prompt_logprobs
from pagedc.runtime.server.protocol import ChatCompletionRequest
from pagedc.runtime.server.sse import sse_event
from pagedc.runtime.tool_parsers.events import CallArguments, CallBroken, CallStart, Reasoning, Text
from pagedc.runtime.tool_parsers.formats import TOOL_FORMATS

_ALPHABET = string.ascii_letters + string.digits


@dataclass(slots=True)
class _Call:
    """A call as it grows."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


class ChatAnswer(Answer):
    """A message, or its deltas."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    request: ChatCompletionRequest

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        num_choices = len(self.generation.choices)
        self._reasoning: list[list[str]] = [[] for _ in range(num_choices)]
        self._calls: list[list[_Call]] = [[] for _ in range(num_choices)]
        self._num_started = [0] * num_choices  # calls, with those that came to nothing

    def collect(self, delta: Delta) -> None:
        """Keep what an event brought."""
        if delta.choice.parser is not None:
            delta = delta._replace(text=self._sort(delta, []))
        super().collect(delta)

    def response(self) -> dict[str, Any]:
        """The whole answer; the prompt's own figures stand beside it where they were asked for."""
        response = super().response()
        if self.wants_token_ids:
            response["prompt_token_ids"] = self.generation.prompts[0].token_ids
        if self.request.prompt_logprobs is not None:
            response["prompt_logprobs"] = prompt_logprobs(
                self.generation.prompt_logprobs[0], self.tokenizer, self.request.prompt_logprobs
            )
        return response

    def whole_choice(
        self, choice: Choice, text: str, token_ids: list[int], logprobs: list[Logprob]
    ) -> dict[str, Any]:
        """A choice with its message."""
        reasoning, calls = self._reasoning[choice.index], self._calls[choice.index]
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if reasoning:
            message["reasoning_content"] = "".join(reasoning)
        if calls:
            message["content"] = text or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for call in calls
            ]
        answer: dict[str, Any] = {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs_of(logprobs),
            "finish_reason": self._finish_reason(choice),
            "stop_reason": choice.stop,
        }
        if self.wants_token_ids:
            answer["token_ids"] = token_ids
        return answer

    def stream(self, delta: Delta) -> bytes:
        """The events that a delta makes; reasoning and calls come in chunks of their own."""
        if delta.choice.parser is None:
            return super().stream(delta)
        index = delta.choice.index
        deltas: list[dict[str, Any]] = []
        text = self._sort(delta, deltas)
        extra = b"".join(sse_event(self._delta_chunk(index, each)) for each in deltas)
        return self.open(delta.choice) + extra + super().stream(delta._replace(text=text))

    def _sort(self, delta: Delta, deltas: list[dict[str, Any]]) -> str:
        """Keep the reasoning and the calls of a delta, as `deltas` of a stream too; returns its content."""
        index = delta.choice.index
        calls, reasoning, content = self._calls[index], self._reasoning[index], []
        for event in delta.events:
            if isinstance(event, Text):
                content.append(event.text)
            elif isinstance(event, Reasoning):
                reasoning.append(event.text)
                deltas.append({"reasoning_content": event.text})
            elif isinstance(event, CallStart):
                call = _Call(self._call_id(), event.name)
                calls.append(call)
                head = {"index": self._num_started[index], "id": call.id, "type": "function"}
                self._num_started[index] += 1
                deltas.append({"tool_calls": [{**head, "function": {"name": call.name, "arguments": ""}}]})
            elif isinstance(event, CallArguments):
                calls[-1].arguments.append(event.text)
                function = {"arguments": event.text}
                place = self._num_started[index] - 1
                deltas.append({"tool_calls": [{"index": place, "function": function}]})
            elif isinstance(event, CallBroken):
                calls.pop()
                if not self.request.stream:  # there it has gone out
                    content.append(event.text)
        return "".join(content)

    def _call_id(self) -> str:
        form = TOOL_FORMATS.get(self.model.tool_parser)
        if form is not None and form.id_length:
            return "".join(secrets.choice(_ALPHABET) for _ in range(form.id_length))
        return "call_" + secrets.token_hex(12)

    def _finish_reason(self, choice: Choice) -> str | None:
        if self._calls[choice.index] and choice.finish_reason == "stop":
            return "tool_calls"
        return choice.finish_reason

    def _delta_chunk(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return self.chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def opening(self, choice: Choice) -> bytes:
        """The role, and the prompt's ids where they were asked for."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        chunk = self.chunk([{"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}])
        if self.wants_token_ids:
            chunk["prompt_token_ids"] = self.generation.prompts[0].token_ids
        return sse_event(chunk)

    def text_chunk(self, index: int, text: str) -> dict[str, Any]:
        """A chunk that holds text and nothing else."""
        return self._delta_chunk(index, {"content": text})

    def detailed_chunk(self, delta: Delta) -> dict[str, Any]:
        """A chunk with logprobs or token ids."""
        choice = {
            "index": delta.choice.index,
            "delta": {"content": delta.text},
            "logprobs": self._logprobs_of(delta.logprobs),
            "finish_reason": None,
        }
        if self.wants_token_ids:
            choice["token_ids"] = delta.token_ids
        return self.chunk([choice])

    def final_chunk(self, choice: Choice) -> dict[str, Any]:
        """The chunk that says why a choice ended."""
        return self.chunk(
            [
                {
                    "index": choice.index,
                    "delta": {},
                    "logprobs": None,
                    "finish_reason": self._finish_reason(choice),
                    "stop_reason": choice.stop,
                }
            ]
        )

    def _logprobs_of(self, entries: Sequence[Logprob]) -> dict[str, Any] | None:
        if not self.request.logprobs:
            return None
        content = chat_logprobs(entries, self.tokenizer, self.request.top_logprobs or 0)
        return {"content": content, "refusal": None}
