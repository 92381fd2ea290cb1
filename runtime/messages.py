"""What the server's process says to an engine's and to the one that tries grammars: msgpack, never pickle."""

from typing import Literal

import msgspec

from pagedc.runtime.config import EngineOptions
from pagedc.runtime.grammars import GrammarKind
from pagedc.runtime.pooling import Pooling
from pagedc.runtime.sampling_params import SamplingParams


class AddRequest(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Generate `params.n` sequences from one prompt."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""
    pooling: Pooling = ""  # an embedding of the prompt instead of tokens after it


class Start(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Open this package: the first message of all."""

    package: str
    options: EngineOptions


class Abort(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Forget a request, whatever state it is in, or one of its sequences; unknown ids are ignored."""

    request_id: str
    index: int | None = None  # which of the n sequences; None = all


class PrepareGrammars(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A request with a grammar is being checked: get ready for it."""


class Shutdown(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Leave once nothing runs."""


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """The logprob of a token and its most likely alternatives, best first."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]] = []


class TokenEvent(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one sequence, in order."""

    request_id: str
    index: int  # which of the n sequences
    token_ids: list[int]
    logprobs: list[Logprob] = []  # one a token, where asked for
    finish_reason: str | None = None  # "stop", "length", "abort"
    stop_token_id: int | None = None  # the token that ended it, where one did; it is the last of token_ids
    num_cached_tokens: int = 0  # of the prompt, found in the prefix cache
    prompt_logprobs: list[Logprob | None] | None = None  # with the first event only; the first is None
    embedding: bytes = b""  # float32, where it was asked for
    queue_seconds: float = 0.0  # that it waited for its first step; with the first event only


class RequestError(msgspec.Struct, frozen=True, array_like=True):
    """The engine could not take or finish a request."""

    request_id: str
    message: str
    code: str | None = None
    param: str | None = None


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """State of the engine after a step, and counters since it started."""

    num_running: int = 0
    num_waiting: int = 0
    kv_cache_usage: float = 0.0  # 0–1
    num_preemptions: int = 0
    prefix_cache_queries: int = 0  # tokens looked up
    prefix_cache_hits: int = 0  # tokens found
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    num_steps: int = 0


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The engine has opened its package and takes requests."""

    num_blocks: int
    max_num_seqs: int
    max_model_len: int
    load_seconds: float
    phases: dict[str, float] = {}  # seconds; parts of it


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The engine could not start; one line that says why."""

    message: str
    error: Literal["EngineError", "PackageError", "UsageError"] = "EngineError"  # of runtime.errors


class Outputs(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """All that one step brought."""

    events: list[TokenEvent]
    errors: list[RequestError]
    stats: EngineStats


ToEngine = Start | AddRequest | Abort | PrepareGrammars | Shutdown
FromEngine = Ready | Failed | Outputs


class CheckGrammar(msgspec.Struct, frozen=True, array_like=True):
    """Try to compile what a request's field holds."""

    kind: GrammarKind
    text: str
    before: str = ""


class CheckedGrammar(msgspec.Struct, frozen=True, array_like=True):
    """For `SamplingParams.grammar`, or one line that says why there is none."""

    grammar: str | None
    error: str = ""
