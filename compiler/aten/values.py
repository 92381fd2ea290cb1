"""What the trace holds while it is read: tensors with the token axis taken out, and their types."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pagedc.compiler.graph import DType, Node, Shape

TOKENS = -1  # stands for T in a full shape; -m for an axis of m T, which is the axis of m of a token's value


class Value(NamedTuple):
    """A traced tensor: its node, and its shape as traced, TOKENS marking the token axis."""

    node: Node
    shape: tuple[int, ...]

    @property
    def token_axis(self) -> int | None:
        """Where T, or a multiple of it, stands in the traced shape."""
        return next((axis for axis, size in enumerate(self.shape) if size < 0), None)


class Parts(NamedTuple):
    """A traced tensor [E, T, ..] or [E T, ..], as compiler/aten/parts.py follows it.

    `value` is [E, T, ..], or [k, T, ..] of the parts that `chosen`, k numbers, names; the rest are 0.
    """

    value: Value
    num_parts: int
    flat: bool  # whether the traced shape is [E T, ..]
    chosen: Node | None = None


class Shifted(NamedTuple):
    """A traced tensor of a few tokens more or less than the sequence, as compiler/aten/shifted.py follows it.

    It is `value`'s tokens without the last `removed` ones, behind `added` ones that all hold `first`.
    """

    value: Value
    added: int = 0
    removed: int = 0
    first: Value | None = None  # None is 0


def dtype_of(dtype: torch.dtype) -> DType:
    """Our type for a torch one: the graph computes in float32, and counts in int32."""
    if dtype.is_floating_point:
        return "float32"
    return "bool" if dtype == torch.bool else "int32"


def without_tokens(shape: tuple[int, ...]) -> Shape:
    """A traced shape with the token axis taken out."""
    return tuple(abs(size) for size in shape if size != TOKENS)


def broadcast_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The traced shape of a pointwise op."""
    rank = max((len(shape) for shape in shapes), default=0)
    columns = zip(*[(1,) * (rank - len(shape)) + shape for shape in shapes], strict=True)
    return tuple(min(column) if min(column) < 0 else max(column) for column in columns)
