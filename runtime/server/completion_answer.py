"""The answers of /v1/completions."""

from typing import Any

from pagedc.runtime.messages import Logprob
from pagedc.runtime.server.answers import Answer
from pagedc.runtime.server.generation import Choice, Delta
from pagedc.runtime.server.logprobs import CompletionLogprobs, prompt_logprobs
from pagedc.runtime.server.protocol import CompletionRequest
from pagedc.runtime.server.sse import sse_event


class CompletionAnswer(Answer):
    """Text, with its prompt before it where `echo` asks for it."""

    object_name = "text_completion"
    chunk_name = "text_completion"
    request: CompletionRequest

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        num_top = self.request.logprobs
        self._growing = [
            None if num_top is None else CompletionLogprobs(self.tokenizer, num_top)
            for _ in self.generation.choices
        ]

    def collect(self, delta: Delta) -> None:
        """Keep what an event brought; of a request for no tokens, nothing."""
        if self.request.max_tokens != 0:
            super().collect(delta)

    def usage(self) -> dict[str, Any]:
        """Token counts; the one token that was run to score a prompt alone does not count."""
        usage = super().usage()
        if self.request.max_tokens == 0:
            usage["completion_tokens"] = 0
            usage["total_tokens"] = usage["prompt_tokens"]
        return usage

    def whole_choice(
        self, choice: Choice, text: str, token_ids: list[int], logprobs: list[Logprob]
    ) -> dict[str, Any]:
        """A choice with its text."""
        prompt = self.generation.prompts[choice.prompt_index]
        prompt_entries = self.generation.prompt_logprobs[choice.prompt_index]
        growing = self._growing[choice.index]
        lists = None
        if self.request.echo:
            text = self._prompt_text(choice) + text
        if growing is not None:
            ids = [entry.token_id for entry in logprobs]
            if self.request.echo and prompt_entries is not None:
                lists = growing.take([*prompt.token_ids, *ids], [*prompt_entries, *logprobs])
            else:
                lists = growing.take(ids, logprobs)
        answer: dict[str, Any] = {
            "index": choice.index,
            "text": text,
            "logprobs": lists,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop,
        }
        if self.wants_token_ids:
            answer["token_ids"] = token_ids
            answer["prompt_token_ids"] = prompt.token_ids
        if self.request.prompt_logprobs is not None:
            answer["prompt_logprobs"] = prompt_logprobs(
                prompt_entries, self.tokenizer, self.request.prompt_logprobs
            )
        return answer

    def stream(self, delta: Delta) -> bytes:
        """The events that a delta makes; of a request for no tokens, its echo and its end."""
        if self.request.max_tokens == 0:
            delta = delta._replace(text="", token_ids=[], logprobs=[])
        return super().stream(delta)

    def opening(self, choice: Choice) -> bytes:
        """The prompt, where it is to be echoed or its ids were asked for."""
        if not self.request.echo and not self.wants_token_ids:
            return b""
        prompt = self.generation.prompts[choice.prompt_index]
        entries = self.generation.prompt_logprobs[choice.prompt_index]
        growing = self._growing[choice.index]
        lists = None
        if self.request.echo and growing is not None and entries is not None:
            lists = growing.take(prompt.token_ids, entries)
        answer: dict[str, Any] = {
            "index": choice.index,
            "text": self._prompt_text(choice) if self.request.echo else "",
            "logprobs": lists,
            "finish_reason": None,
        }
        if self.wants_token_ids:
            answer["prompt_token_ids"] = prompt.token_ids
            answer["token_ids"] = []
        return sse_event(self.chunk([answer]))

    def text_chunk(self, index: int, text: str) -> dict[str, Any]:
        """A chunk that holds text and nothing else."""
        return self.chunk([{"index": index, "text": text, "logprobs": None, "finish_reason": None}])

    def detailed_chunk(self, delta: Delta) -> dict[str, Any]:
        """A chunk with logprobs or token ids."""
        growing = self._growing[delta.choice.index]
        lists = None
        if growing is not None:
            lists = growing.take([entry.token_id for entry in delta.logprobs], delta.logprobs)
        answer = {"index": delta.choice.index, "text": delta.text, "logprobs": lists, "finish_reason": None}
        if self.wants_token_ids:
            answer["token_ids"] = delta.token_ids
        return self.chunk([answer])

    def final_chunk(self, choice: Choice) -> dict[str, Any]:
        """The chunk that says why a choice ended."""
        return self.chunk(
            [
                {
                    "index": choice.index,
                    "text": "",
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                    "stop_reason": choice.stop,
                }
            ]
        )

    def _prompt_text(self, choice: Choice) -> str:
        prompt = self.generation.prompts[choice.prompt_index]
        if prompt.text is not None:
            return prompt.text
        return self.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
