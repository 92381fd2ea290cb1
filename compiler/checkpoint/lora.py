"""A checkpoint with a LoRA adapter merged in: W + scale · B · A, in float32, where a tensor is read."""

import logging
from functools import cached_property
from typing import Literal

import torch
from transformers import PretrainedConfig

from pagedc.compiler.adapter import MAGNITUDE, WEIGHTS, WHOLE, Change, read_adapter
from pagedc.compiler.checkpoint.base import Checkpoint, Stored
from pagedc.compiler.checkpoint.module import meta_module
from pagedc.compiler.checkpoint.purpose import Purpose
from pagedc.compiler.checkpoint.put_together import as_floats
from pagedc.compiler.checkpoint.shards import TensorFile
from pagedc.compiler.errors import CheckpointError, UnsupportedError

logger = logging.getLogger(__name__)


class LoraCheckpoint:
    """A base checkpoint as an adapter changes it."""

    def __init__(self, base: Checkpoint, text: str) -> None:
        """`text` is what was asked for: `DIR` or `name=DIR`. Raises CheckpointError where it does not fit."""
        self._adapter = adapter = read_adapter(text)
        self._base = base
        self.name = f"{base.name}-{adapter.name}"
        self.source = f"{base.source} with {adapter.directory.resolve()}"
        self._check()
        self._file = TensorFile(adapter.directory / WEIGHTS)

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
        change = self._adapter.changes.get(name)
        if change is None:
            return self._base.read(name)
        parts = {role: self._file.read(key).float() for role, key in change.parts.items()}
        base = parts.pop(WHOLE) if WHOLE in parts else as_floats(self._base.read(name)).float()
        if not parts:
            return base
        is_transposed = change.is_transposed(self._adapter.config)
        rows = (base.T if is_transposed else base) + self._delta(parts, change)
        if MAGNITUDE in parts:
            rows = rows * (parts[MAGNITUDE].reshape(-1, 1) / rows.norm(dim=1, keepdim=True))
        return (rows.T if is_transposed else rows).contiguous()

    def _delta(self, parts: dict[str, torch.Tensor], change: Change) -> torch.Tensor:
        low, high = (parts[role] for role in change.pair)
        return self._adapter.config.scale(change.module, len(low)) * (high @ low)

    def _check(self) -> None:
        """Every change is of a tensor of the base, and of its shape."""
        directory, base = self._adapter.directory, self._base
        tied: dict[str, str] = getattr(meta_module(self.config), "all_tied_weights_keys", None) or {}
        held = set(base.names())
        for name, change in self._adapter.changes.items():
            if name not in held:
                key = next(iter(change.parts.values()))
                raise CheckpointError(f"{directory}: {key} has no place in {base.name}")
            if name in {*tied, *tied.values()}:
                raise UnsupportedError(f"{directory}: {name} is tied to another tensor, and changed alone")
            if change.shape(self._adapter.config) != (shape := base.shape(name)):
                raise CheckpointError(
                    f"{directory}: {name} is {list(shape)} in {base.name}, and the adapter has {change}"
                )
        if base.quantization != "none":
            logger.warning(
                "%s: %d matrices of %s are merged in floats and stay so; --quantize rounds them again",
                directory,
                len(self._adapter.changes),
                base.name,
            )
