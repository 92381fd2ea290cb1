"""The answers of /v1/chat/completions."""

from collections.abc import Sequence
from typing import Any

from pagedc.runtime.messages import Logprob
from pagedc.runtime.server.answers import Answer
from pagedc.runtime.server.generation import Choice, Delta
from pagedc.runtime.server.logprobs import chat_logprobs, prompt_logprobs
from pagedc.runtime.server.protocol import ChatCompletionRequest
from pagedc.runtime.server.sse import sse_event


class ChatAnswer(Answer):
    """A message, or its deltas."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    request: ChatCompletionRequest

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
        answer: dict[str, Any] = {
            "index": choice.index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs_of(logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop,
        }
        if self.wants_token_ids:
            answer["token_ids"] = token_ids
        return answer

    def opening(self, choice: Choice) -> bytes:
        """The role, and the prompt's ids where they were asked for."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        chunk = self.chunk([{"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}])
        if self.wants_token_ids:
            chunk["prompt_token_ids"] = self.generation.prompts[0].token_ids
        return sse_event(chunk)

    def text_chunk(self, index: int, text: str) -> dict[str, Any]:
        """A chunk that holds text and nothing else."""
        return self.chunk(
            [{"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]
        )

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
                    "finish_reason": choice.finish_reason,
                    "stop_reason": choice.stop,
                }
            ]
        )

    def _logprobs_of(self, entries: Sequence[Logprob]) -> dict[str, Any] | None:
        if not self.request.logprobs:
            return None
        content = chat_logprobs(entries, self.tokenizer, self.request.top_logprobs or 0)
        return {"content": content, "refusal": None}
