"""A GGUF file: config and tokenizer from its metadata, block-quantized tensors kept as they are."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from gguf import GGMLQuantizationType
from transformers.integrations.gguf import get_gguf_conversion_mapping, is_gguf_arch_supported

from pagedc.compiler.checkpoint.base import QuantizedTensor, Stored
from pagedc.compiler.checkpoint.conversion import Conversion
from pagedc.compiler.checkpoint.gguf_blocks import BLOCKS, FLOATS, read_tensor
from pagedc.compiler.checkpoint.gguf_config import ROPE_FACTORS, read_gguf_config
from pagedc.compiler.checkpoint.gguf_file import GGUFFile
from pagedc.compiler.checkpoint.gguf_names import ProcessorNames
from pagedc.compiler.checkpoint.gguf_tokenizer import gguf_tokenizer_files
from pagedc.compiler.checkpoint.module import meta_module
from pagedc.compiler.checkpoint.purpose import Purpose
from pagedc.compiler.errors import CheckpointError, UnsupportedError

logger = logging.getLogger(__name__)


class _Names(Protocol):
    """Where the tensors of the module come from."""

    @property
    def sources(self) -> dict[str, list[str]]: ...

    @property
    def strangers(self) -> list[str]: ...

    def make(self, name: str, load: Callable[[str], Stored]) -> Stored: ...


class GGUFCheckpoint:
    """Tensors of BLOCKS are read as QuantizedTensor, those of other block types as float32."""

    purpose = Purpose()

    def __init__(self, path: Path, *, name: str | None = None, source: str | None = None) -> None:
        self._file = GGUFFile(path)
        num_parts = self._file.metadata.get("split.count", 1)
        if num_parts != 1:
            raise UnsupportedError(
                f"{path}: one of {num_parts} parts; join them with llama-gguf-split --merge"
            )
        self.name = name or path.stem
        self.source = source or str(path.resolve())
        self.config = read_gguf_config(self._file)
        model = meta_module(self.config)
        self._state = model.state_dict()
        self._tied = _tied_twins(model)
        self._names = _names(model, self.config, self._file)
        self._check(model)
        self.tokenizer_files = gguf_tokenizer_files(self._file)
        self._notice()

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        types = {tensor.type for tensor in self._file.tensors.values() if len(tensor.shape) > 1}
        return "float32" if types <= {GGMLQuantizationType.F32, GGMLQuantizationType.F64} else "bfloat16"

    @property
    def quantization(self) -> str:
        return "gguf" if any(tensor.type in BLOCKS for tensor in self._file.tensors.values()) else "none"

    def names(self) -> list[str]:
        return [name for name in self._state if self._stored_name(name) in self._names.sources]

    def shape(self, name: str) -> tuple[int, ...]:
        self._require(name)
        return tuple(self._state[name].shape)

    def read(self, name: str) -> torch.Tensor | QuantizedTensor:
        self._require(name)
        return self._names.make(self._stored_name(name), lambda source: read_tensor(self._file, source))

    def _stored_name(self, name: str) -> str:
        return name if name in self._names.sources else self._tied.get(name, name)

    def _require(self, name: str) -> None:
        if self._stored_name(name) not in self._names.sources:
            raise CheckpointError(f"{self.source}: holds no {name}")

    def _check(self, model: torch.nn.Module) -> None:
        """Every parameter has its tensor, every tensor its parameter, and sizes agree."""
        path, held = self._file.path, set(self.names())
        parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        if missing := [name for name in parameters if name not in held]:
            raise CheckpointError(f"{path}: {len(missing)} parameters missing, first {missing[0]}")
        if strangers := [name for name in self._names.strangers if name != ROPE_FACTORS]:
            model_type = self.config.model_type
            raise CheckpointError(
                f"{path}: {len(strangers)} tensors have no place in a {model_type}, first {strangers[0]}"
            )
        for name, sources in self._names.sources.items():
            size = sum(math.prod(self._file.tensors[source].shape) for source in sources)
            if size != self._state[name].numel():
                shapes = ", ".join(str(list(self._file.tensors[source].shape)) for source in sources)
                raise CheckpointError(
                    f"{name}: {shapes} in the file, {list(self._state[name].shape)} by its config"
                )

    def _notice(self) -> None:
        others = Counter(
            tensor.type.name
            for tensor in self._file.tensors.values()
            if tensor.type not in BLOCKS and tensor.type not in FLOATS
        )
        for kind, count in sorted(others.items()):
            logger.warning("%s: %d tensors of type %s are read as float32", self._file.path, count, kind)


class _ConversionNames:
    """Architectures whose GGUF form transformers describes by the same tables as its own conversions."""

    def __init__(self, model: torch.nn.Module, mapping: list[Any], file: GGUFFile) -> None:
        self._conversion = Conversion(
            model, {name: tensor.shape for name, tensor in file.tensors.items()}, mapping
        )
        self.sources = {
            name: [key for _, key in recipe.sources] for name, recipe in self._conversion.recipes.items()
        }
        used = {key for keys in self.sources.values() for key in keys}
        self.strangers = [name for name in file.tensors if name not in used]

    def make(self, name: str, load: Callable[[str], Stored]) -> Stored:
        return self._conversion.make(name, load)


def _names(model: torch.nn.Module, config: Any, file: GGUFFile) -> _Names:
    architecture = file.metadata["general.architecture"]
    if is_gguf_arch_supported(architecture):
        return _ConversionNames(model, get_gguf_conversion_mapping(architecture, config), file)
    return ProcessorNames(model, config, architecture, list(file.tensors))


def _tied_twins(model: torch.nn.Module) -> dict[str, str]:
    """Each tied name and the other one."""
    pairs: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return pairs | {source: target for target, source in pairs.items()}
