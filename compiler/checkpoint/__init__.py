"""Read a model: a Hugging Face directory, a hub id, a GGUF file, or the built-in demo model."""

from pathlib import Path

from pagedc.compiler.checkpoint.base import Checkpoint, QuantizedTensor
from pagedc.compiler.checkpoint.hf import HFCheckpoint

__all__ = ["Checkpoint", "QuantizedTensor", "open_checkpoint"]


def open_checkpoint(model: str, *, random_weights: bool = False) -> Checkpoint:
    """Open MODEL. Raises CheckpointError where it cannot be found or read, UnsupportedError where pagedc cannot compile it."""
    return HFCheckpoint(Path(model))
