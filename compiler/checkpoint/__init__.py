"""Read a model: a Hugging Face directory, a hub id, a GGUF file, or the built-in demo model."""

from pathlib import Path

from pagedc.compiler.checkpoint.base import Checkpoint, QuantizedTensor
from pagedc.compiler.checkpoint.config_file import CONFIG
from pagedc.compiler.checkpoint.demo import Progress, open_demo
from pagedc.compiler.checkpoint.gguf import GGUFCheckpoint
from pagedc.compiler.checkpoint.hf import HFCheckpoint
from pagedc.compiler.checkpoint.hub import fetch_config, open_hub
from pagedc.compiler.checkpoint.lora import LoraCheckpoint
from pagedc.compiler.checkpoint.random import RandomCheckpoint
from pagedc.compiler.checkpoint.special_tokens import SpecialTokens, special_tokens
from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.model_name import DEMO, FORMS, model_path

__all__ = ["Checkpoint", "QuantizedTensor", "SpecialTokens", "open_checkpoint", "special_tokens"]


def open_checkpoint(
    model: str, *, random_weights: bool = False, lora: str | None = None, progress: Progress | None = None
) -> Checkpoint:
    """Open MODEL, with the adapter `lora` (`DIR` or `name=DIR`) merged in; `progress` hears of downloads.

    Raises CheckpointError where it cannot be found or read, and UnsupportedError where pagedc cannot
    compile it.
    """
    base = _open(model, random_weights, progress)
    return base if lora is None else LoraCheckpoint(base, lora)


def _open(model: str, random_weights: bool, progress: Progress | None) -> Checkpoint:
    if model == DEMO:
        if random_weights:
            raise CheckpointError(f"{DEMO}: it has its weights; --random-weights is for a config alone")
        return open_demo(progress)
    path = model_path(model)
    if path is not None:
        return _open_random(path) if random_weights else _open_path(path)
    if random_weights:
        directory = fetch_config(model)
        return RandomCheckpoint(directory, name=model.partition("/")[2], source=f"{model}@{directory.name}")
    return open_hub(model)


def _open_path(path: Path) -> Checkpoint:
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if files and not (path / CONFIG).exists():
            raise CheckpointError(f"{path}: no {CONFIG} in it; give the path of a file, such as {files[0]}")
        return HFCheckpoint(path)
    if path.suffix == ".gguf":
        return GGUFCheckpoint(path)
    raise CheckpointError(
        f"{path}: MODEL is {FORMS}"
        + ("; with --random-weights a config alone" if path.suffix == ".json" else "")
    )


def _open_random(path: Path) -> Checkpoint:
    if path.is_dir() or path.suffix == ".json":
        return RandomCheckpoint(path)
    raise CheckpointError(f"{path}: --random-weights needs a directory with config.json, or such a file")
