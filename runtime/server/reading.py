"""How the text of a chat's answers is read: as plain content, or with reasoning and calls in it."""

from collections.abc import Sequence
from dataclasses import dataclass

from pagedc.runtime.server.served_model import ServedModel
from pagedc.runtime.tokenizer import Tokenizer
from pagedc.runtime.tool_parsers.answer import AnswerParser
from pagedc.runtime.tool_parsers.formats import (
    REASONING_FORMATS,
    TOOL_FORMATS,
    ToolFormat,
    make_reasoning_parser,
)

TAIL_TOKENS = 16  # of the prompt, where a template opens the reasoning


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one request's answers are read with."""

    tokenizer: Tokenizer | None = None
    tools: ToolFormat | None = None
    reasoning: str = ""
    kept_ids: frozenset[int] = frozenset()  # control tokens that the parsers must see
    is_single_call: bool = False  # the answer ends behind its first call

    def make_parser(self, prompt_token_ids: Sequence[int]) -> AnswerParser | None:
        """For one answer to this prompt; None if its text is content and nothing else."""
        if self.tokenizer is None or (self.tools is None and not self.reasoning):
            return None
        reasoning = None
        if self.reasoning:
            is_open = self.opens_reasoning(prompt_token_ids)
            reasoning = make_reasoning_parser(self.reasoning, is_open=is_open)
        return AnswerParser(reasoning, self.tools.make_parser() if self.tools else None)

    def opens_reasoning(self, prompt_token_ids: Sequence[int]) -> bool:
        """Whether the prompt ends where reasoning begins."""
        if self.tokenizer is None or not self.reasoning:
            return False
        tail = self.tokenizer.decode(prompt_token_ids[-TAIL_TOKENS:], skip_special_tokens=False)
        return tail.rstrip().endswith(REASONING_FORMATS[self.reasoning][0])


PLAIN = Reading()


def make_reading(model: ServedModel, *, offers_tools: bool, is_single_call: bool) -> Reading:
    """For the requests of a model; harmony's channels are always read, with tools or without."""
    name = model.tool_parser
    tools = TOOL_FORMATS[name or "json"] if offers_tools or name == "harmony" else None
    reasoning = model.reasoning_parser if model.reasoning_parser in REASONING_FORMATS else ""
    if tools is None and not reasoning:
        return PLAIN
    markers = (*(tools.markers if tools else ()), *REASONING_FORMATS.get(reasoning, ()))
    ids = (model.tokenizer.special_tokens.get(marker) for marker in markers)
    return Reading(
        tokenizer=model.tokenizer,
        tools=tools,
        reasoning=reasoning,
        kept_ids=frozenset(token_id for token_id in ids if token_id is not None),
        is_single_call=is_single_call,
    )
