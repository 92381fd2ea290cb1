"""What the fields of a request may hold: SamplingParams come out, or one error that names the field."""

from collections.abc import Mapping
from typing import Any

from pagedc.runtime.errors import ContextLengthError, RequestError
from pagedc.runtime.sampling_params import MAX_LOGPROBS, SamplingParams
from pagedc.runtime.server.json_body import quoted
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.protocol import (
    ChatCompletionRequest,
    ChatTemplateFields,
    CompletionRequest,
    ContentPart,
    GenerationRequest,
    Message,
)

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_INT32 = 2**31 - 1
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
# What only the server gives to a template, or to whoever renders it.
RESERVED_VARIABLES = (
    "add_generation_prompt",
    "bos_token",
    "chat_template",
    "continue_final_message",
    "documents",
    "eos_token",
    "messages",
    "self",
    "template",
    "tokenize",
    "tools",
)

# Documented fields that change the answer and that the server does not act on.
_CHAT_REFUSED = (
    "audio",
    "function_call",
    "functions",
    "moderation",
    "prediction",
    "reasoning_effort",
    "tools",
    "verbosity",
    "web_search_options",
)
_MESSAGE_REFUSED = ("tool_calls", "function_call", "refusal", "audio", "annotations")


def check_chat(request: ChatCompletionRequest, limits: Limits) -> None:
    """Refuse what a chat request may not ask, before any work is done for it."""
    _check_generation(request, limits)
    for name in _CHAT_REFUSED:
        if getattr(request, name) is not None:
            raise unsupported(name)
    if request.tool_choice not in (None, "none"):
        raise unsupported("tool_choice", "without tools it must be 'none'")
    if request.response_format is not None and request.response_format.type != "text":
        raise unsupported("response_format", "the only type is 'text'")
    if request.response_format is not None and request.response_format.json_schema is not None:
        raise unsupported("response_format.json_schema")
    if request.modalities is not None and request.modalities != ["text"]:
        raise unsupported("modalities", "the only modality is 'text'")
    if request.top_logprobs is not None:
        if not request.logprobs:
            raise invalid("top_logprobs", "it needs logprobs to be true")
        _check_range("top_logprobs", request.top_logprobs, 0, MAX_LOGPROBS)
    if request.metadata is not None and len(request.metadata) > limits.max_metadata:
        raise invalid("metadata", f"it has {len(request.metadata)} entries, above {limits.max_metadata}")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise invalid("max_tokens", "give it or max_completion_tokens, not both")


def check_completion(request: CompletionRequest, limits: Limits) -> None:
    """Refuse what a completion request may not ask, before any work is done for it."""
    _check_generation(request, limits)
    if request.suffix is not None:
        raise unsupported("suffix")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise unsupported("best_of", "it must equal n")
    if request.logprobs is not None:
        _check_range("logprobs", request.logprobs, 0, MAX_LOGPROBS)
    if request.max_tokens == 0 and not request.echo:
        raise invalid("max_tokens", "it is 0, which needs echo to be true")


def sampling_params(
    request: GenerationRequest,
    defaults: Mapping[str, float],
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    vocab_size: int,
) -> SamplingParams:
    """The request's own values over the package's over OpenAI's."""
    for token_id in request.stop_token_ids or ():
        check_token_id("stop_token_ids", token_id, vocab_size)
    for token_id in request.logit_bias or ():
        check_token_id("logit_bias", token_id, vocab_size)

    def pick(name: str, fallback: float) -> Any:
        value = getattr(request, name)
        return value if value is not None else defaults.get(name, fallback)

    top_k = pick("top_k", 0)
    stop = request.stop
    try:
        return SamplingParams(
            temperature=pick("temperature", 1.0),
            top_p=pick("top_p", 1.0),
            top_k=0 if top_k == -1 else top_k,
            min_p=pick("min_p", 0.0),
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            repetition_penalty=pick("repetition_penalty", 1.0),
            logit_bias=request.logit_bias or {},
            seed=request.seed,
            n=1 if request.n is None else request.n,
            max_tokens=max_tokens,
            min_tokens=request.min_tokens or 0,
            stop=[stop] if isinstance(stop, str) else stop or [],
            stop_token_ids=request.stop_token_ids or [],
            ignore_eos=bool(request.ignore_eos),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
    except ValueError as error:
        message = str(error)
        raise RequestError(
            f"Invalid value: {message}.", param=message.split(" ", 1)[0], code="invalid_value"
        ) from None


def check_token_id(param: str, token_id: int, vocab_size: int) -> None:
    """Refuse an id that is none of the model's."""
    if not 0 <= token_id < vocab_size:
        raise invalid(param, f"token id {token_id} is not in [0, {vocab_size})")


def room_for(num_prompt_tokens: int, asked: int | None, default: int | None, max_model_len: int) -> int:
    """How many tokens may be generated after a prompt; refuses what does not fit the context."""
    room = max_model_len - num_prompt_tokens
    if room < 1 or (asked is not None and asked > room):
        wanted = f" and {asked} for the answer" if asked is not None else ""
        raise ContextLengthError(
            f"This model's maximum context length is {max_model_len} tokens; "
            f"the prompt takes {num_prompt_tokens}{wanted}.",
            param="max_tokens" if room >= 1 else "prompt",
        )
    if asked is not None:
        return asked
    return room if default is None else min(default, room)


def check_template_fields(request: ChatTemplateFields, messages: list[Message], limits: Limits) -> bool:
    """Check how messages are to be rendered; returns whether the template opens the assistant's turn."""
    opens = request.add_generation_prompt
    if request.continue_final_message:
        if opens:
            raise invalid("continue_final_message", "it excludes add_generation_prompt")
        if messages[-1].role != "assistant":
            raise invalid("continue_final_message", "the last message must be the assistant's")
        opens = False
    kwargs = request.chat_template_kwargs or {}
    if len(kwargs) > limits.max_template_kwargs:
        raise invalid(
            "chat_template_kwargs", f"it has {len(kwargs)} entries, above {limits.max_template_kwargs}"
        )
    for name, value in kwargs.items():
        if not name.isidentifier() or name.startswith("_") or len(name) > 64 or name in RESERVED_VARIABLES:
            raise invalid("chat_template_kwargs", f"{quoted(name)} is not a name that may be given")
        if not isinstance(value, str | int | float | bool | None):
            raise invalid(
                f"chat_template_kwargs.{name}", "it must be a string, a number, true, false or null"
            )
        if isinstance(value, str) and len(value) > 1024:
            raise invalid(f"chat_template_kwargs.{name}", "it is longer than 1024 characters")
        if isinstance(value, int | float) and abs(value) > MAX_INT32:
            raise invalid(f"chat_template_kwargs.{name}", "it is out of range")
    return True if opens is None else opens


def template_messages(messages: list[Message], limits: Limits) -> list[dict[str, Any]]:
    """The messages as a chat template wants them: each content one string."""
    if not messages:
        raise invalid("messages", "it is empty")
    if len(messages) > limits.max_messages:
        raise invalid("messages", f"it has {len(messages)} entries, above {limits.max_messages}")
    return [_template_message(message, f"messages[{i}]", limits) for i, message in enumerate(messages)]


def _template_message(message: Message, where: str, limits: Limits) -> dict[str, Any]:
    if message.role not in ROLES:
        raise invalid(f"{where}.role", f"{quoted(message.role)} is none of {', '.join(ROLES)}")
    for name in _MESSAGE_REFUSED:
        if getattr(message, name):
            raise unsupported(f"{where}.{name}")
    if message.content is None:
        raise invalid(f"{where}.content", "it is missing")
    if message.role == "tool" and message.tool_call_id is None:
        raise invalid(f"{where}.tool_call_id", "a tool's message needs it")
    content = message.content
    if not isinstance(content, str):
        content = _join_parts(content, f"{where}.content", limits)
    # Templates know the older name of the developer's role.
    rendered = {"role": "system" if message.role == "developer" else message.role, "content": content}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            rendered[name] = value
    return rendered


def _join_parts(parts: list[ContentPart], where: str, limits: Limits) -> str:
    if not parts:
        raise invalid(where, "it is empty")
    if len(parts) > limits.max_content_parts:
        raise invalid(where, f"it has {len(parts)} parts, above {limits.max_content_parts}")
    for i, part in enumerate(parts):
        if part.type != "text":
            raise unsupported(f"{where}[{i}].type", f"{quoted(part.type)} is not 'text'")
        if part.text is None:
            raise invalid(f"{where}[{i}].text", "it is missing")
    return "\n".join(part.text for part in parts if part.text is not None)


def _check_generation(request: GenerationRequest, limits: Limits) -> None:
    if request.n is not None:
        _check_range("n", request.n, 1, min(128, limits.max_sequences))
    if request.stream_options is not None:
        if not request.stream:
            raise invalid("stream_options", "it needs stream to be true")
        if request.stream_options.include_obfuscation:
            raise unsupported("stream_options.include_obfuscation")
    if request.prompt_logprobs is not None:
        if request.stream:
            raise invalid("prompt_logprobs", "it needs stream to be false")
        _check_range("prompt_logprobs", request.prompt_logprobs, 0, MAX_LOGPROBS)
    if request.top_k is not None:
        _check_range("top_k", request.top_k, -1, MAX_INT32)
    if request.priority is not None:
        _check_range("priority", request.priority, -MAX_INT32, MAX_INT32)
    if request.cache_salt is not None and not 0 < len(request.cache_salt) <= limits.max_salt_len:
        raise invalid(
            "cache_salt", f"its length is {len(request.cache_salt)}, not in [1, {limits.max_salt_len}]"
        )
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stop) > limits.max_stop:
        raise invalid("stop", f"it has {len(stop)} entries, above {limits.max_stop}")
    for text in stop:
        if not 0 < len(text) <= limits.max_stop_len:
            raise invalid("stop", f"a length is {len(text)}, not in [1, {limits.max_stop_len}]")
    if request.stop_token_ids is not None and len(request.stop_token_ids) > limits.max_stop_token_ids:
        raise invalid(
            "stop_token_ids",
            f"it has {len(request.stop_token_ids)} entries, above {limits.max_stop_token_ids}",
        )


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise invalid(name, f"{value} is not in [{low}, {high}]")


def invalid(param: str, why: str) -> RequestError:
    """A field whose value may not be."""
    return RequestError(f"Invalid value for '{param}': {why}.", param=param, code="invalid_value")


def unsupported(param: str, why: str = "") -> RequestError:
    """A field that is known and not served."""
    detail = f": {why}" if why else ""
    return RequestError(f"'{param}' is not supported{detail}.", param=param, code="unsupported_parameter")
