"""From the tensors of a GGUF file to those of the module, by transformers' and gguf's tables.

llama.cpp stores some tensors otherwise than the module has them: rows of q and k permuted, norms off by
one, experts apart. transformers has a processor per architecture that undoes it on float arrays. Where a
processor only moves whole rows, which is found by running it on row numbers, rows of quantized blocks are
moved instead and keep their bits.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from pagedc.compiler.checkpoint.base import QuantizedTensor, Stored
from pagedc.compiler.checkpoint.put_together import put_together
from pagedc.compiler.checkpoint.shards import first_line
from pagedc.compiler.errors import CheckpointError, UnsupportedError


class ProcessorNames:
    """Tensors of the module, each from one or several of the file's through an architecture's processor."""

    def __init__(
        self, model: torch.nn.Module, config: PretrainedConfig, architecture: str, names: list[str]
    ) -> None:
        self._processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
        try:
            self._map: dict[str, str] = get_gguf_hf_weights_map(_Outline(model), self._processor)
        except NotImplementedError as error:
            raise UnsupportedError(
                f"{architecture}: no table of tensor names: {first_line(error)}"
            ) from error
        self._state = model.state_dict()
        self.sources: dict[str, list[str]] = {}
        self.strangers: list[str] = []  # tensors that have no place in the module
        for name in names:
            target = self._map.get(name) or self._map.get(name.removesuffix(".weight"))
            if target in self._state:
                self.sources.setdefault(target, []).append(name)
            else:
                self.strangers.append(name)

    def make(self, name: str, load: Callable[[str], Stored]) -> Stored:
        """One tensor of the module."""
        sources = self.sources[name]
        shape = tuple(self._state[name].shape)
        if len(sources) == 1:
            stored = load(sources[0])
            index = self._row_order(sources[0], stored.shape[0])
            if index is not None and tuple(stored.shape) == shape:
                return _take_rows(stored, index)
        parts = {source: load(source) for source in sources}
        made = put_together(parts, lambda tensors: self._convert(name, tensors))
        if tuple(made.shape) != shape:
            raise CheckpointError(f"{name}: {list(made.shape)} in the file, {list(shape)} by its config")
        return made

    def _convert(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the processor makes of the tensors of one name."""
        made: dict[str, torch.Tensor] = {}
        for source, tensor in tensors.items():
            wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has no bfloat16
            result = self._process(wide.numpy(), source, made)
            if result is not None:
                made[name] = torch.from_numpy(np.ascontiguousarray(result))
        if name not in made:
            raise CheckpointError(f"{name}: nothing in the file")
        return made[name]

    def _process(self, values: Any, source: str, made: dict[str, torch.Tensor]) -> Any:
        """The processed array, or None where the processor put it into `made` itself."""
        result = self._processor.process(
            weights=values, name=source, tensor_key_mapping=self._map, parsed_parameters={"tensors": made}
        )
        return None if result.name is None else result.weights

    def _row_order(self, source: str, num_rows: int) -> torch.Tensor | None:
        """Which row comes where, or None where the processor does more than move whole rows."""
        numbers = np.arange(2 * num_rows, dtype=np.float64).reshape(num_rows, 2)
        made: dict[str, torch.Tensor] = {}
        try:
            moved = self._process(numbers.copy(), source, made)
        except (ValueError, IndexError, TypeError, AttributeError, KeyError, RuntimeError):
            return None  # it needs an array of the real shape
        if moved is None or made or moved.shape != numbers.shape:
            return None
        index = (moved[:, 0] // 2).astype(np.int64)
        whole = index.min(initial=0) >= 0 and index.max(initial=0) < num_rows
        if not whole or len(set(index.tolist())) != num_rows or not np.array_equal(numbers[index], moved):
            return None
        return torch.from_numpy(index)


class _Outline:
    """What the table of names asks of a module: its tensors and those of its base model.

    Given the module itself it builds the table again for each of several hundred submodules, 4 s for 30
    layers.
    """

    def __init__(self, model: torch.nn.Module, *, base: bool = True) -> None:
        self.config = model.config
        self._state = model.state_dict()
        prefix = str(getattr(model, "base_model_prefix", ""))
        inner = getattr(model, prefix, None) if base and prefix else None
        self._children = [(prefix, _Outline(inner, base=False))] if inner is not None else []

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._state

    def named_children(self) -> list[tuple[str, "_Outline"]]:
        return self._children


def _take_rows(stored: Stored, index: torch.Tensor) -> Stored:
    if bool((index == torch.arange(len(index))).all()):
        return stored
    return stored.map(lambda part: part[index]) if isinstance(stored, QuantizedTensor) else stored[index]
