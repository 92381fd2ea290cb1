"""A Hugging Face directory: config.json, safetensors, tokenizer files."""

from pathlib import Path
from typing import Literal

import torch
from transformers import PretrainedConfig

from pagedc.compiler.checkpoint.base import Stored
from pagedc.compiler.checkpoint.config_file import read_config, read_quantization
from pagedc.compiler.checkpoint.conversion import Conversion
from pagedc.compiler.checkpoint.module import meta_module
from pagedc.compiler.checkpoint.purpose import read_purpose
from pagedc.compiler.checkpoint.quantized import QuantizedShards, method_of
from pagedc.compiler.checkpoint.shards import Shards
from pagedc.compiler.checkpoint.tokenizer_files import read_tokenizer_files
from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.compiler.model_name import CONFIG

FLOATS = {"F64", "F32", "F16", "BF16"}


class HFCheckpoint:
    """Tensors of the module's own names, made from the files' tensors when they are read."""

    def __init__(self, directory: Path, *, name: str | None = None, source: str | None = None) -> None:
        self.name = name or directory.resolve().name
        self.source = source or str(directory.resolve())
        self.config: PretrainedConfig = read_config(directory / CONFIG)
        model = meta_module(self.config)  # refuses an unsupported config before any shard is opened
        self._shards: Shards | QuantizedShards = Shards(directory)
        quantization = read_quantization(directory / CONFIG)
        self.quantization = method_of(quantization) or "none"
        if quantization:
            self._shards = QuantizedShards(self._shards, quantization, str(directory))
        self._conversion = Conversion(model, {key: info.shape for key, info in self._shards.infos.items()})
        self._state = model.state_dict()
        # A bare model's checkpoint says so; one of a causal LM that lacks its head is broken.
        named = getattr(self.config, "architectures", None) or []
        is_bare = bool(named) and type(model).__name__ not in named and self._conversion.stand_in_head()
        self._check()
        self.purpose = read_purpose(directory, self.config, has_head=not is_bare)
        self.tokenizer_files = read_tokenizer_files(directory)

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        matrices = [info.dtype for info in self._shards.infos.values() if len(info.shape) > 1]
        return "float32" if matrices and all(dtype in ("F32", "F64") for dtype in matrices) else "bfloat16"

    def names(self) -> list[str]:
        return self._conversion.names()

    def shape(self, name: str) -> tuple[int, ...]:
        self._require(name)
        return tuple(self._state[name].shape)

    def read(self, name: str) -> Stored:
        self._require(name)
        stored = self._conversion.make(name, self._shards.read)
        return stored.contiguous() if isinstance(stored, torch.Tensor) else stored

    def _require(self, name: str) -> None:
        if name not in self._state or self._conversion.stored_name(name) not in self._conversion.recipes:
            raise CheckpointError(f"{self.source}: holds no {name}")

    def _check(self) -> None:
        """Nothing is missing, and floats are stored as floats."""
        if missing := self._conversion.missing():
            raise CheckpointError(f"{self.source}: {len(missing)} parameters missing, first {missing[0]}")
        for name in self.names():
            for key in self._conversion.sources(name):
                dtype = self._shards.infos[key].dtype
                if self._state[name].is_floating_point() and dtype not in FLOATS:
                    raise UnsupportedError(
                        f"{key}: stored as {dtype}; give the checkpoint in bfloat16, float16 or float32"
                    )
