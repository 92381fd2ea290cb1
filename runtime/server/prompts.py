"""Requests to prompts: token ids, and the text they came from where an answer must repeat it."""

import asyncio
from typing import Any, NamedTuple

from pagedc.runtime.errors import RequestError
from pagedc.runtime.server.chat_messages import (
    check_template_fields,
    describe_tools,
    effort_variables,
    template_messages,
    template_tools,
)
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.protocol import ChatTemplateFields, Message
from pagedc.runtime.server.served_model import ServedModel
from pagedc.runtime.server.validation import check_token_id

# Characters; longer texts are tokenized in a thread, so that other streams keep their pace.
LONG_TEXT = 4096


class Prompt(NamedTuple):
    """What the model reads before it answers."""

    token_ids: list[int]
    text: str | None  # as it was given, None if as token ids


async def completion_prompts(
    value: str | list[str | int | list[int]], model: ServedModel, limits: Limits, *, add_special_tokens: bool
) -> list[Prompt]:
    """Every form that `prompt` may take: a text, token ids, or a list of either."""
    items: list[Any] = [value] if isinstance(value, str) else value
    if items and all(isinstance(item, int) for item in items):
        items = [items]
    if not items:
        raise _invalid_prompt("it is empty")
    if len(items) > limits.max_prompts:
        raise _invalid_prompt(f"it has {len(items)} entries, above {limits.max_prompts}")
    kinds = {type(item) for item in items}
    if len(kinds) > 1 or int in kinds:
        raise _invalid_prompt("its entries are of different types")
    prompts = [await _prompt(item, model, add_special_tokens) for item in items]
    for prompt in prompts:
        if not prompt.token_ids:
            raise _invalid_prompt("it is empty")
    return prompts


async def chat_prompt(
    fields: ChatTemplateFields, messages: list[Message], model: ServedModel, limits: Limits
) -> Prompt:
    """A conversation as the package's chat template writes it."""
    if model.chat_template is None:
        raise RequestError("This model has no chat template; use /v1/completions.", code="no_chat_template")
    rendered = template_messages(messages, limits)
    add_generation_prompt = check_template_fields(fields, messages, limits)
    functions = template_tools(fields)
    variables: dict[str, Any] = dict(fields.chat_template_kwargs or {})
    variables |= effort_variables(fields, model.chat_template)
    if functions and not model.chat_template.mentions("tools"):
        rendered, functions = describe_tools(rendered, functions), []
    if fields.continue_final_message:
        variables["continue_final_message"] = True
    template = model.chat_template
    token_ids = await asyncio.to_thread(
        lambda: model.tokenizer.encode_chat(
            template,
            rendered,
            tools=functions or None,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
    )
    if not token_ids:
        raise RequestError("The chat template made an empty prompt of these messages.", param="messages")
    return Prompt(token_ids, None)


async def encode_text(text: str, model: ServedModel, *, add_special_tokens: bool) -> list[int]:
    """Token ids of a text, without holding up the event loop."""
    if len(text) <= LONG_TEXT:
        return model.tokenizer.encode(text, add_special_tokens=add_special_tokens)
    return await asyncio.to_thread(model.tokenizer.encode, text, add_special_tokens=add_special_tokens)


async def _prompt(item: str | list[int], model: ServedModel, add_special_tokens: bool) -> Prompt:
    if isinstance(item, str):
        return Prompt(await encode_text(item, model, add_special_tokens=add_special_tokens), item)
    for token_id in item:
        check_token_id("prompt", token_id, model.vocab_size)
    return Prompt(item, None)


def _invalid_prompt(why: str) -> RequestError:
    return RequestError(f"Invalid value for 'prompt': {why}.", param="prompt", code="invalid_value")
