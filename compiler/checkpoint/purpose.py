"""What a checkpoint was trained for, to continue texts or to embed them, by the files beside its weights."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import PretrainedConfig

from pagedc.compiler.checkpoint.shards import first_line, read_json
from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.runtime.manifest import Embedding

Pooling = Literal["mean", "last", "cls"]

# Of sentence-transformers: modules behind the model, each a folder with a config.json.
MODULES = "modules.json"
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
}


@dataclass(frozen=True, slots=True)
class Purpose:
    """A causal LM's, unless said otherwise."""

    generates: bool = True  # whether it has a head
    embedding: Embedding = field(default_factory=Embedding)


def read_purpose(directory: Path, config: PretrainedConfig, *, has_head: bool) -> Purpose:
    """Raises UnsupportedError for an embedding model that does more than pool."""
    pooling: Pooling = "mean"
    for module in _modules(directory):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(directory / str(module.get("path", "")) / "config.json")
        elif kind not in ("Transformer", "Normalize") and not has_head:
            raise UnsupportedError(f"{directory}: its embeddings go through a {kind}, which is not supported")
    sizes = getattr(config, "matryoshka_dimensions", None)
    if sizes is None and getattr(config, "is_matryoshka", False):
        sizes = []  # any
    if sizes is not None and not (
        isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
    ):
        raise UnsupportedError(f"{directory}: matryoshka_dimensions are no list of sizes")
    return Purpose(has_head, Embedding(pooling, sizes))


def _modules(directory: Path) -> list[dict[str, Any]]:
    path = directory / MODULES
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else []
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}") from error
    return [module for module in found if isinstance(module, dict)] if isinstance(found, list) else []


def _pooling(path: Path) -> Pooling:
    config = read_json(path) if path.is_file() else {}
    chosen = [name for name, is_on in config.items() if name.startswith("pooling_mode_") and is_on is True]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise UnsupportedError(
            f"{path}: pools by {' and '.join(chosen) or 'nothing'}; pagedc knows mean, last, cls"
        )
    return _POOLINGS[chosen[0]]
