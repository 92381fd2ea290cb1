"""What the fields of a request may hold: SamplingParams come out, or one error that names the field."""

from collections.abc import Mapping
from typing import Any

from pagedc.runtime.errors import ContextLengthError, RequestError
from pagedc.runtime.sampling_params import MAX_LOGPROBS, SamplingParams
from pagedc.runtime.server.json_body import quoted
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.protocol import ChatCompletionRequest, CompletionRequest, GenerationRequest
from pagedc.runtime.server.refusals import invalid, unsupported
from pagedc.runtime.server.tools import check_tools

MAX_INT32 = 2**31 - 1
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
# Documented fields that change the answer and that the server does not act on.
_CHAT_REFUSED = (
    "audio",
    "function_call",
    "functions",
    "moderation",
    "prediction",
    "verbosity",
    "web_search_options",
)


def check_chat(request: ChatCompletionRequest, limits: Limits) -> None:
    """Refuse what a chat request may not ask, before any work is done for it."""
    _check_generation(request, limits)
    for name in _CHAT_REFUSED:
        if getattr(request, name) is not None:
            raise unsupported(name)
    check_tools(request, limits)
    if request.modalities is not None and request.modalities != ["text"]:
        raise unsupported("modalities", "the only modality is 'text'")
    if request.top_logprobs is not None:
        if not request.logprobs:
            raise invalid("top_logprobs", "it needs logprobs to be true")
        _check_range("top_logprobs", request.top_logprobs, 0, MAX_LOGPROBS)
    if request.metadata is not None and len(request.metadata) > limits.max_metadata:
        raise invalid("metadata", f"it has {len(request.metadata)} entries, above {limits.max_metadata}")
    if request.reasoning_effort is not None and request.reasoning_effort not in EFFORTS:
        raise invalid(
            "reasoning_effort", f"{quoted(request.reasoning_effort)} is none of {', '.join(EFFORTS)}"
        )
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
    grammar: str = "",
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
            grammar=grammar,
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
