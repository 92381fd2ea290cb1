"""What a LoRA adapter says of itself, checked as far as it goes without its base model: torch is not needed
to refuse a wrong directory.

An adapter is a directory as PEFT writes it: adapter_config.json and adapter_model.safetensors, whose keys are
the base model's modules with `lora_A`, `lora_B`, `lora_embedding_A`, `lora_embedding_B` or
`lora_magnitude_vector` (DoRA) behind them, and whole tensors that replace the base's (`modules_to_save`,
biases).
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.compiler.model_name import ADAPTER as CONFIG

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
PART = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.weight|\.default)*"
)
LINEAR, EMBEDDING = ("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")
MAGNITUDE, WHOLE = "lora_magnitude_vector", "whole"
FLOATS = {"F64", "F32", "F16", "BF16"}
# Beginnings that take something from the base's weights before training; PEFT takes it again where it loads.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterConfig(msgspec.Struct, frozen=True):
    """What adapter_config.json says of merging; None is PEFT's default."""

    peft_type: str | None = None
    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] | None = None  # pattern of a module's path → its own lora_alpha
    use_rslora: bool | None = None
    fan_in_fan_out: bool | None = None  # the modules it changes hold their weights as [inputs, outputs]
    init_lora_weights: bool | str | None = None
    alora_invocation_tokens: Any = None

    def scale(self, module: str, rank: int) -> float:
        """α / r, or α / √r; α may be a module's own."""
        alpha = float(rank) if self.lora_alpha is None else self.lora_alpha
        for pattern, own in (self.alpha_pattern or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                alpha = own
                break
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


@dataclass(slots=True)
class Change:
    """What an adapter does to one tensor."""

    module: str  # its path in the base model
    parts: dict[str, str] = field(default_factory=dict)  # "lora_A", …, "whole" → key in the file
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the same parts

    def is_transposed(self, config: AdapterConfig) -> bool:
        """Whether B · A is the transpose of what is added; embeddings are [tokens, width]."""
        return EMBEDDING[0] in self.parts or bool(config.fan_in_fan_out)

    def shape(self, config: AdapterConfig) -> tuple[int, ...] | None:
        """Of the tensor that its parts make; None where they do not fit together."""
        whole = self.shapes.get(WHOLE)
        if self.shapes.keys() == {WHOLE}:
            return whole
        low, high = (self.shapes[role] for role in self.pair)
        if len(low) != 2 or len(high) != 2 or low[0] != high[1] or low[0] == 0:
            return None
        if MAGNITUDE in self.shapes and math.prod(self.shapes[MAGNITUDE]) != high[0]:
            return None
        made = (low[1], high[0]) if self.is_transposed(config) else (high[0], low[1])
        return made if whole in (None, made) else None

    @property
    def pair(self) -> tuple[str, str]:
        """The names of its two matrices."""
        return EMBEDDING if EMBEDDING[0] in self.parts else LINEAR

    def __str__(self) -> str:
        return ", ".join(f"{role} {list(shape)}" for role, shape in sorted(self.shapes.items()))


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that is whole in itself; whether it fits a model is to be seen."""

    name: str
    directory: Path
    config: AdapterConfig
    changes: dict[str, Change]  # by the name of the tensor in the base model


def read_adapter(text: str) -> Adapter:
    """The adapter at `DIR` or `name=DIR`. Raises CheckpointError, and UnsupportedError for what cannot be
    merged.
    """
    name, equals, place = text.rpartition("=")
    directory = Path(place).expanduser()
    if not place or (equals and not name):
        raise CheckpointError(f"--lora {text}: it is DIR or NAME=DIR, the directory of a PEFT adapter")
    if not (directory / CONFIG).is_file():
        found = f"no {CONFIG} in it" if directory.is_dir() else "no such directory"
        raise CheckpointError(f"{directory}: {found}; --lora is the directory of a PEFT adapter")
    config = _read_config(directory)
    changes = _changes(directory, config)
    return Adapter(name if equals else directory.resolve().name, directory, config, changes)


def _read_config(directory: Path) -> AdapterConfig:
    path = directory / CONFIG
    try:
        config = msgspec.json.decode(path.read_bytes(), type=AdapterConfig)
        for pattern in config.alpha_pattern or ():
            re.compile(pattern)
    except (OSError, ValueError, RecursionError, re.error) as error:  # msgspec's own are ValueErrors
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if config.peft_type != "LORA":
        raise UnsupportedError(f"{directory}: an adapter of type {config.peft_type!r}; pagedc merges LORA")
    beginning = config.init_lora_weights
    if isinstance(beginning, str) and beginning.lower().startswith(CHANGED_BASE):
        raise UnsupportedError(
            f"{directory}: init_lora_weights is {beginning!r}: it belongs to weights that PEFT changed "
            "first; save it with path_initial_model_for_weight_conversion, or merge it with PEFT"
        )
    if config.alora_invocation_tokens:
        raise UnsupportedError(
            f"{directory}: it has alora_invocation_tokens: it changes a model from these tokens on, "
            "and merged it would do so everywhere"
        )
    return config


def _changes(directory: Path, config: AdapterConfig) -> dict[str, Change]:
    """Each change, whole and of parts that fit together."""
    changes: dict[str, Change] = {}
    for key, (shape, dtype) in _read_header(directory).items():
        if dtype not in FLOATS:
            raise UnsupportedError(
                f"{directory}: {key} is stored as {dtype}; pagedc merges floats of 16 bits or more"
            )
        path = key.removeprefix(PREFIX).replace(".base_layer.", ".")  # a copy of the base's own
        match = PART.fullmatch(path)
        module, role = (match[1], match[2]) if match else (path.rpartition(".")[0], WHOLE)
        change = changes.setdefault(f"{module}.weight" if match else path, Change(module))
        change.parts[role], change.shapes[role] = key, shape
    if not changes:
        raise CheckpointError(f"{directory / WEIGHTS}: it holds no tensor, and would change nothing")
    for name, change in changes.items():
        roles = set(change.parts)
        if roles != {WHOLE} and roles - {MAGNITUDE, WHOLE} not in ({*LINEAR}, {*EMBEDDING}):
            raise CheckpointError(f"{directory}: {name} has {', '.join(sorted(roles))} alone")
        if change.shape(config) is None:
            raise CheckpointError(f"{directory}: the parts of {name} do not fit together: {change}")
    return changes


def _read_header(directory: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Each tensor's shape and type, a word of safetensors' own."""
    from safetensors import SafetensorError, safe_open

    path = directory / WEIGHTS
    if not path.is_file():
        found = f"only {PICKLE}, a pickle file" if (directory / PICKLE).is_file() else f"no {WEIGHTS} in it"
        raise CheckpointError(f"{directory}: {found}; save it with safe_serialization=True")
    try:
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in list(file.keys())}
            return {key: (tuple(part.get_shape()), str(part.get_dtype())) for key, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error
