"""Read a model: a Hugging Face directory, a hub id, a GGUF file, or the built-in demo model."""

from pagedc.compiler.checkpoint.base import Checkpoint, QuantizedTensor
from pagedc.compiler.checkpoint.demo import Progress, open_demo
from pagedc.compiler.checkpoint.gguf import GGUFCheckpoint
from pagedc.compiler.checkpoint.hf import HFCheckpoint
from pagedc.compiler.checkpoint.hub import fetch_config, open_hub
from pagedc.compiler.checkpoint.lora import LoraCheckpoint
from pagedc.compiler.checkpoint.random import RandomCheckpoint
from pagedc.compiler.checkpoint.special_tokens import SpecialTokens, special_tokens
from pagedc.compiler.model_name import DEMO, model_path

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
    path = model_path(model, random_weights=random_weights)
    if path is not None:
        if random_weights:
            return RandomCheckpoint(path)
        return HFCheckpoint(path) if path.is_dir() else GGUFCheckpoint(path)
    if model == DEMO:
        return open_demo(progress)
    if random_weights:
        directory = fetch_config(model)
        return RandomCheckpoint(directory, name=model.partition("/")[2], source=f"{model}@{directory.name}")
    return open_hub(model)
