"""The weights of a package as float32 parameters of the module: the inverse of packing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from pagedc.compiler.checkpoint import Checkpoint
from pagedc.compiler.reference import Rounding
from pagedc.compiler.weights import striped_rows
from pagedc.kernels.cpu import layout
from pagedc.runtime.manifest import Manifest, Weight

Array = NDArray[Any]


class PackageWeights:
    """Parameters by name: from the package where it holds them, else from the checkpoint, rounded alike.

    A package holds some only in another form: transposed, added up, or in the layout of a GPU's kernels.
    """

    def __init__(self, package: Path, manifest: Manifest, checkpoint: Checkpoint, rounding: Rounding) -> None:
        self._package, self._checkpoint, self._rounding = package, checkpoint, rounding
        self._held: dict[str, tuple[Weight, int]] = {}  # name → what holds it, from which row
        for weight in manifest.weights if manifest.target.kind == "cpu" else []:
            self._held |= {name: (weight, start) for name, start in self._parts(weight)}

    def read(self, name: str) -> Array:
        """One parameter, in its own shape."""
        if name not in self._held:
            return self._rounding(name, self._checkpoint.read(name)).numpy()
        weight, start = self._held[name]
        shape = self._checkpoint.shape(name)
        with safe_open(self._package / weight.file, framework="np") as file:
            packed = file.get_tensor(weight.name)
        if weight.format == "raw":
            return np.asarray(packed.view(np.float32).reshape(shape))
        *experts, rows, columns = weight.shape
        parts = np.split(packed, int(np.prod(experts)) if experts else 1)
        matrices = [_unpack(part, weight, rows, columns) for part in parts]
        if experts:
            return np.stack(matrices).reshape(shape)
        return matrices[0][start : start + shape[0]]

    def _parts(self, weight: Weight) -> Iterator[tuple[str, int]]:
        """The parameters that a weight holds as they are, and where their rows begin."""
        known = set(self._checkpoint.names())
        start = 0
        for name in weight.name.partition("#")[0].split("|"):
            if name not in known:
                return
            shape = self._checkpoint.shape(name)
            if "|" in weight.name or list(shape) == weight.shape:
                yield name, start
            start += shape[0]


def _unpack(packed: Array, weight: Weight, rows: int, columns: int) -> Array:
    values = layout.dequantise(weight.format, layout.unpack(weight.format, packed, rows, columns))
    if weight.stripes == 1:
        return values
    order: Array = torch.argsort(striped_rows(rows, weight.stripes)).numpy()
    return np.asarray(values[order])
