"""Fine-grained FP8: float8 weights, a float32 scale for each block of 128 × 128 (or for the whole matrix).

`X` float8 [..., N, K] and `X_scale_inv` [..., N / rows, K / columns]: weight = scale · value.
"""

from typing import Any

from pagedc.compiler.checkpoint.base import Stored
from pagedc.compiler.checkpoint.quantized.base import Packed, Source, Tensors

EXPANDED = "the kernels have no 8-bit floats"
SUFFIXES = ("_scale_inv", "_scale")


def find(config: dict[str, Any], source: Source) -> dict[str, Packed]:
    """Every float8 tensor that has a scale; scales of activations are not read."""
    infos = source.infos
    found = {}
    for key, info in infos.items():
        scale = next((key + suffix for suffix in SUFFIXES if key + suffix in infos), None)
        if info.dtype.startswith("F8") and scale is not None:
            found[key] = Packed(info.shape, {"weight": key, "scales": scale}, expand, EXPANDED)
    return found


def expand(tensors: Tensors) -> Stored:
    """In float32: each block of the weight times its scale; a block is as large as the two shapes say."""
    weight, scales = tensors["weight"].float(), tensors["scales"].float()
    if scales.numel() == 1:
        return weight * scales.reshape(())
    for axis in (-1, -2):
        size, count = weight.shape[axis], scales.shape[axis]
        if count != 1:
            scales = scales.repeat_interleave(_block(size, count), axis).narrow(axis, 0, size)
    return weight * scales


def _block(size: int, count: int) -> int:
    """Elements of a block, the last of which may be cut short: a power of two where several sizes fit."""
    least = -(-size // count)
    rounded = 1 << (least - 1).bit_length()
    return rounded if -(-size // rounded) == count else least
