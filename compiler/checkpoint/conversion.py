"""From the names in a file to the names of the module, by transformers' own conversion tables.

transformers stores some parameters otherwise than it computes with them (experts one by one, fused
projections, old names). Its tables of renamings and converters are applied here as it applies them when it
loads a model, but lazily: they run once on meta tensors, which tells names and shapes, and again on real
ones for each tensor that is read.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from pagedc.compiler.checkpoint.base import Stored
from pagedc.compiler.checkpoint.put_together import put_together
from pagedc.compiler.checkpoint.shards import first_line
from pagedc.compiler.errors import CheckpointError


@dataclass(slots=True)
class Recipe:
    """How one or several tensors of the module come from tensors of the file."""

    name: str  # the first name it makes
    converter: Any  # a WeightConverter, or None for a renaming
    sources: list[tuple[str, str]] = field(
        default_factory=list
    )  # (pattern of the converter, key in the file)

    def run(self, model: torch.nn.Module, load: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every tensor that the recipe makes, by its name in the module."""
        if self.converter is None:
            return {self.name: load(self.sources[0][1])}
        converter = deepcopy(self.converter)
        for pattern, key in self.sources:
            converter.add_tensor(self.name, key, pattern, load(key))
        made = converter.convert(self.name, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


class Conversion:
    """Which tensors of a module a file holds, and how to make them."""

    def __init__(
        self, model: torch.nn.Module, shapes: dict[str, tuple[int, ...]], mapping: list[Any] | None = None
    ) -> None:
        """`shapes` are the file's; `model` lies on the meta device; `mapping` is the model's own if None.

        Raises CheckpointError where a shape differs.
        """
        self.model = model
        self.recipes: dict[str, Recipe] = {}  # name in the module → recipe
        state = model.state_dict()
        for recipe in _recipes(model, state, list(shapes), mapping):
            try:
                made = recipe.run(model, lambda key: torch.empty(shapes[key], device="meta"))
            except (RuntimeError, ValueError, IndexError, AttributeError, KeyError) as error:
                raise CheckpointError(
                    f"{recipe.name}: cannot be made from the file's tensors: {first_line(error)}"
                ) from error
            for name, tensor in made.items():
                if name not in state:
                    continue
                if tensor.shape != state[name].shape:
                    raise CheckpointError(
                        f"{name}: {list(tensor.shape)} in the file, {list(state[name].shape)} by its config"
                    )
                self.recipes[name] = recipe
        self._alias_tied(state)

    def sources(self, name: str) -> list[str]:
        """The file's tensors that a name is made from."""
        return [key for _, key in self.recipes[self.stored_name(name)].sources]

    def make(self, name: str, load: Callable[[str], Stored]) -> Stored:
        """Make one tensor of the module: quantized if its parts are and are only put together."""
        name = self.stored_name(name)
        recipe = self.recipes[name]
        parts = {key: load(key) for _, key in recipe.sources}
        if recipe.converter is None:
            return parts[recipe.sources[0][1]]
        return put_together(parts, lambda tensors: recipe.run(self.model, tensors.__getitem__)[name])

    def stored_name(self, name: str) -> str:
        """The name under which a tied tensor is stored; any other name as it is."""
        return self.tied.get(name, name)

    def names(self) -> list[str]:
        """Everything that can be made, in the order of the module."""
        return [name for name in self.model.state_dict() if self.stored_name(name) in self.recipes]

    def missing(self) -> list[str]:
        """Parameters of the module that the file does not hold."""
        parameters = (name for name, _ in self.model.named_parameters(remove_duplicate=False))
        return [name for name in parameters if self.stored_name(name) not in self.recipes]

    def stand_in_head(self) -> bool:
        """Let the embedding stand for a head that alone is missing, where they are of one shape."""
        model: Any = self.model
        head = _weight_name(model, model.get_output_embeddings())
        embedding = _weight_name(model, model.get_input_embeddings())
        if self.missing() != [head] or self.model.get_parameter(head).shape != (
            self.model.get_parameter(embedding).shape
        ):
            return False
        self.tied[head] = embedding
        return True

    def _alias_tied(self, state: dict[str, torch.Tensor]) -> None:
        """Tied tensors are one: the source is read wherever it is held, its twin otherwise."""
        self.tied: dict[str, str] = {}
        pairs: dict[str, str] = getattr(self.model, "all_tied_weights_keys", None) or {}
        for target, source in pairs.items():
            stored = source if source in self.recipes else target
            if stored in self.recipes:
                self.tied[target if stored == source else source] = stored


def _weight_name(model: torch.nn.Module, module: torch.nn.Module | None) -> str:
    return next((f"{name}.weight" for name, each in model.named_modules() if each is module), "")


def _recipes(
    model: torch.nn.Module, state: dict[str, torch.Tensor], keys: list[str], mapping: list[Any] | None
) -> list[Recipe]:
    """Follows transformers.core_model_loading.convert_and_load_state_dict_in_model step by step."""
    if mapping is None:
        mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    prefix = model.base_model_prefix
    recipes: dict[str, Recipe] = {}
    for key in sorted(keys, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        if name not in state:
            continue  # as transformers does: heads of other tasks, stale buffers
        recipe = recipes.setdefault(name, Recipe(name, by_pattern[pattern] if pattern is not None else None))
        recipe.sources.append((pattern or key, key))
    return list(recipes.values())
