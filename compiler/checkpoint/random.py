"""Random weights for a config: a model of any size compiles and runs without a file of its weights."""

import hashlib
from math import prod
from pathlib import Path
from typing import Literal

import torch

from pagedc.compiler.checkpoint.config_file import read_config
from pagedc.compiler.checkpoint.module import meta_module
from pagedc.compiler.checkpoint.purpose import Purpose
from pagedc.compiler.checkpoint.tokenizer_files import read_tokenizer_files
from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.model_name import CONFIG

INITIALIZER_RANGE = 0.02  # where the config has none
# Values of a tensor before they repeat: billions would take minutes. Odd, so that no two rows are equal.
MAX_DRAWN = (1 << 24) - 3


class RandomCheckpoint:
    """Each tensor is drawn when it is read, from a generator seeded by its name: always the same."""

    quantization = "none"
    purpose = Purpose()

    def __init__(self, path: Path, *, name: str | None = None, source: str | None = None) -> None:
        """`path` is a directory with a config.json, or such a file under any name."""
        directory, file = (path, path / CONFIG) if path.is_dir() else (path.parent, path)
        self.config = read_config(file, weights=False)
        self.name = name or (directory.resolve().name if file.name == CONFIG else file.stem)
        self.source = f"{source or file.resolve()}, random weights"
        model = meta_module(self.config)
        self._state = model.state_dict()
        self._tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
        self._std = float(getattr(self.config, "initializer_range", None) or INITIALIZER_RANGE)
        self.tokenizer_files = read_tokenizer_files(directory)

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        return "float32" if getattr(self.config, "dtype", None) is torch.float32 else "bfloat16"

    def names(self) -> list[str]:
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._state:
            raise CheckpointError(f"{self.source}: holds no {name}")
        return tuple(self._state[name].shape)

    def read(self, name: str) -> torch.Tensor:
        """Weights of norms lie near 1, everything else near 0 with the config's initializer_range."""
        shape = self.shape(name)
        if not self._state[name].is_floating_point():
            return torch.zeros(shape, dtype=self._state[name].dtype)
        stored = self._tied.get(name, name)
        generator = torch.Generator().manual_seed(_seed(stored))
        dtype = torch.float32 if self.dtype == "float32" or len(shape) < 2 else torch.bfloat16
        mean = 1.0 if len(shape) == 1 and stored.endswith("weight") else 0.0
        size = prod(shape)
        drawn = torch.empty(min(size, MAX_DRAWN), dtype=dtype).normal_(mean, self._std, generator=generator)
        return drawn.repeat(-(-size // MAX_DRAWN))[:size].reshape(shape) if size else drawn.reshape(shape)


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
