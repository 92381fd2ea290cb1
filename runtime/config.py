"""What a person may ask of an engine, and what that means for one package on this machine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What was asked for; None means: as the package was planned."""

    memory: int | None = None  # bytes for weights, activations and KV cache together
    num_threads: int | None = None  # None = the cores that this process may use
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    prefix_cache: bool = True
