"""A checkpoint with a LoRA adapter merged in: W + scale · B · A, in float32, where a tensor is read.

An adapter is a directory as PEFT writes it: adapter_config.json and adapter_model.safetensors, whose keys are
the base model's modules with `lora_A`, `lora_B`, `lora_embedding_A`, `lora_embedding_B` or
`lora_magnitude_vector` (DoRA) behind them, and whole tensors that replace the base's (`modules_to_save`,
biases).
"""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from pagedc.compiler.checkpoint.base import Checkpoint, Stored
from pagedc.compiler.checkpoint.module import meta_module
from pagedc.compiler.checkpoint.purpose import Purpose
from pagedc.compiler.checkpoint.put_together import as_floats
from pagedc.compiler.checkpoint.shards import TensorFile, read_json
from pagedc.compiler.errors import CheckpointError, UnsupportedError

logger = logging.getLogger(__name__)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PART = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.weight|\.default)*"
)

PAIRS: tuple[set[str], ...] = ({"lora_A", "lora_B"}, {"lora_embedding_A", "lora_embedding_B"}, set())


@dataclass(slots=True)
class Change:
    """What an adapter does to one tensor."""

    module: str  # its path in the base model
    parts: dict[str, str] = field(default_factory=dict)  # "lora_A", … or "whole" → key in the file


def parse_lora(text: str) -> tuple[str, Path]:
    """`DIR` or `name=DIR` as a name and a directory."""
    name, equals, directory = text.rpartition("=")
    path = Path(directory).expanduser()
    return (name if equals else path.resolve().name), path


class LoraCheckpoint:
    """A base checkpoint as an adapter changes it."""

    def __init__(self, base: Checkpoint, text: str) -> None:
        """`text` is what was asked for: `DIR` or `name=DIR`. Raises CheckpointError where it does not fit."""
        name, directory = parse_lora(text)
        if not name:
            raise CheckpointError(f"{text}: no name before the =")
        self._base, self._directory = base, directory
        self.name, self.source = f"{base.name}-{name}", f"{base.source} with {directory.resolve()}"
        if not (directory / CONFIG).is_file():
            raise CheckpointError(
                f"{directory}: no {CONFIG} in it; --lora is the directory of a PEFT adapter"
            )
        self._config = read_json(directory / CONFIG)
        if (kind := self._config.get("peft_type")) != "LORA":
            raise UnsupportedError(f"{directory}: an adapter of type {kind!r}; pagedc merges LORA")
        self._file = TensorFile(directory / WEIGHTS)
        self._changes = self._find()
        self._check()

    @property
    def config(self) -> PretrainedConfig:
        return self._base.config

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        return self._base.dtype

    @property
    def quantization(self) -> str:
        return self._base.quantization

    @property
    def purpose(self) -> Purpose:
        return self._base.purpose

    @cached_property
    def tokenizer_files(self) -> dict[str, bytes]:
        return self._base.tokenizer_files

    def names(self) -> list[str]:
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def read(self, name: str) -> Stored:
        change = self._changes.get(name)
        if change is None:
            return self._base.read(name)
        parts = {role: self._file.read(key).float() for role, key in change.parts.items()}
        base = parts.pop("whole") if "whole" in parts else as_floats(self._base.read(name)).float()
        if not parts:
            return base
        merged = base + self._delta(parts, change.module)
        if "lora_magnitude_vector" in parts:
            rows = merged.T if self._is_transposed else merged
            rows = rows * (parts["lora_magnitude_vector"].reshape(-1, 1) / rows.norm(dim=1, keepdim=True))
            merged = rows.T if self._is_transposed else rows
        return merged.contiguous()

    @property
    def _is_transposed(self) -> bool:
        """Whether the modules it changes hold their weights as [inputs, outputs]."""
        return bool(self._config.get("fan_in_fan_out", False))

    def _delta(self, parts: dict[str, torch.Tensor], module: str) -> torch.Tensor:
        if "lora_embedding_A" in parts:
            low, high = parts["lora_embedding_A"], parts["lora_embedding_B"]
            return self._scale(module, len(low)) * (high @ low).T
        low, high = parts["lora_A"], parts["lora_B"]
        delta = self._scale(module, len(low)) * (high @ low)
        return delta.T if self._is_transposed else delta

    def _scale(self, module: str, rank: int) -> float:
        """α / r, or α / √r; both may be a module's own."""
        alpha = float(
            _of_module(self._config.get("alpha_pattern"), module, self._config.get("lora_alpha", rank))
        )
        return alpha / math.sqrt(rank) if self._config.get("use_rslora") else alpha / rank

    def _find(self) -> dict[str, Change]:
        """Each changed tensor of the base, by name."""
        held = set(self._base.names())
        changes: dict[str, Change] = {}
        for key in self._file.infos:
            path = key.removeprefix(PREFIX).replace(".base_layer.", ".")  # a copy of the base's own
            match = PART.fullmatch(path)
            module, role = (match[1], match[2]) if match else (path.rpartition(".")[0], "whole")
            name = f"{module}.weight" if match else path
            if name not in held:
                raise CheckpointError(f"{self._directory}: {key} has no place in {self._base.name}")
            changes.setdefault(name, Change(module)).parts[role] = key
        return changes

    def _check(self) -> None:
        """Every change is whole and of its tensor's shape."""
        model = meta_module(self.config)
        tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
        for name in self._changes.keys() & {*tied, *tied.values()}:
            raise UnsupportedError(f"{self._directory}: {name} is tied to another tensor, and changed alone")
        for name, change in self._changes.items():
            shape = self._base.shape(name)
            roles = set(change.parts)
            if roles - {"lora_magnitude_vector", "whole"} not in PAIRS or roles == {"lora_magnitude_vector"}:
                raise CheckpointError(f"{self._directory}: {name} has {', '.join(sorted(roles))} alone")
            shapes = {role: self._file.infos[key].shape for role, key in change.parts.items()}
            if any(made != shape for made in _made_shapes(shapes, self._is_transposed)):
                raise CheckpointError(
                    f"{self._directory}: {name} is {list(shape)} in {self._base.name}, "
                    f"and the adapter has {', '.join(f'{role} {list(s)}' for role, s in shapes.items())}"
                )
        if self._base.quantization != "none":
            logger.warning(
                "%s: %d matrices of %s are merged in floats and stay so; --quantize rounds them again",
                self._directory,
                len(self._changes),
                self._base.name,
            )


def _made_shapes(shapes: dict[str, tuple[int, ...]], is_transposed: bool) -> Iterator[tuple[int, ...]]:
    """What the parts of one change make."""
    if "whole" in shapes:
        yield shapes["whole"]
    if "lora_embedding_A" in shapes:
        yield shapes["lora_embedding_A"][1], shapes["lora_embedding_B"][0]
    if "lora_A" in shapes:
        made = shapes["lora_B"][0], shapes["lora_A"][1]
        yield made[::-1] if is_transposed else made


def _of_module(patterns: Any, module: str, default: Any) -> Any:
    """The value of the first pattern that a module's path ends in."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
