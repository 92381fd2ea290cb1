"""Prompts in any form to token ids, for callers in Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from pagedc.runtime.chat_template import ChatTemplate
from pagedc.runtime.errors import RequestError
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.tokenizer import Tokenizer

Prompt = str | Sequence[int]


def list_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt as a list of one; an empty list is a list of none. Raises RequestError for anything else."""
    if not isinstance(prompts, Sequence):
        raise RequestError(f"a prompt is a text or a list of token ids, not {prompts!r}", param="prompt")
    if isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int)):
        return [cast(Prompt, prompts)]
    return list(cast(Sequence[Prompt], prompts))


def checked_params(params: object) -> SamplingParams:
    """Those that were given, or the defaults for None. Raises RequestError for anything else."""
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise RequestError(f"params are pagedc.SamplingParams(…), not {params!r}", param="params")
    return params


class Prompter:
    """The tokenizer and the chat template of a package."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer(directory)
        self.chat_template = ChatTemplate.open(directory)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a text, or the ids that were given."""
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def encode_chat(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a conversation; raises RequestError if it is none, or the package has no template."""
        if self.chat_template is None:
            raise RequestError(
                "this package has no chat template: use generate with a prompt", code="no_chat_template"
            )
        if isinstance(messages, str) or not messages or not all(isinstance(each, dict) for each in messages):
            raise RequestError(
                'messages are a list of one or more like {"role": "user", "content": "…"}', param="messages"
            )
        return self.tokenizer.encode_chat(self.chat_template, messages, tools=tools, **variables)

    def close(self) -> None:
        """End the chat template's process; safe to call twice."""
        if self.chat_template is not None:
            self.chat_template.close()
