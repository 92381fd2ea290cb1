"""Views: ops that say in which order elements lie, and which are repeated."""

from collections.abc import Sequence
from typing import Any

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.table import op
from pagedc.compiler.aten.values import TOKENS, Parts, Value, without_tokens


@op(
    "aten.view",
    "aten.reshape",
    "aten._unsafe_view",
    "aten.unsqueeze",
    "aten.squeeze",
    "aten.flatten",
    "aten.unflatten",
    "aten.view_as",
)
def reshape(importer: Importer, x: Value, *_: Any) -> Value | Parts:
    shape = importer.out_shape()
    if x.token_axis == 1 and shape[0] == TOKENS * x.shape[0] and x.shape[0] > 1:
        return Parts(importer.reshape(x, (*x.shape[:2], *shape[1:])), x.shape[0], flat=True)
    return importer.reshape(x, shape)


@op("aten.permute")
def permute(importer: Importer, x: Value, dims: Sequence[int]) -> Value:
    dims = [dim % len(x.shape) for dim in dims]
    shape = tuple(x.shape[dim] for dim in dims)
    axes = [importer.axis(x, dim) for dim in dims if x.shape[dim] != TOKENS]
    if axes == sorted(axes):
        return Value(x.node, shape)
    return Value(importer.add("permute", (x.node,), without_tokens(shape), axes=tuple(axes)), shape)


@op("aten.transpose", "aten.swapaxes")
def transpose(importer: Importer, x: Value, a: int, b: int) -> Value:
    dims = list(range(len(x.shape)))
    dims[a], dims[b] = dims[b], dims[a]
    return permute(importer, x, dims)


@op("aten.t", "aten.numpy_T")
def t(importer: Importer, x: Value) -> Value:
    return permute(importer, x, list(reversed(range(len(x.shape)))))


@op("aten.movedim")
def movedim(importer: Importer, x: Value, source: int, destination: int) -> Value:
    dims = [dim for dim in range(len(x.shape)) if dim != source % len(x.shape)]
    dims.insert(destination % len(x.shape), source % len(x.shape))
    return permute(importer, x, dims)


@op("aten.copy", "aten.copy_")
def copy(importer: Importer, x: Value, source: Value, *_: Any) -> Value:
    return expand_to(importer, importer.cast(source, x.node.dtype), importer.out_shape())


@op("aten.expand", "aten.expand_as", "aten.broadcast_to")
def expand(importer: Importer, x: Value, *_: Any, **__: Any) -> Value:
    return expand_to(importer, x, importer.out_shape())


@op("aten.broadcast_tensors")
def broadcast_tensors(importer: Importer, values: Sequence[Value]) -> tuple[Value, ...]:
    return tuple(expand_to(importer, value, importer.out_shape(i)) for i, value in enumerate(values))


def expand_to(importer: Importer, x: Value, shape: tuple[int, ...]) -> Value:
    """x repeated along axes of 1 to a traced shape."""
    if x.token_axis is None and min(shape, default=0) < 0:
        # The same for each token: stays a constant of one token.
        padded = (1,) * (len(shape) - len(x.shape)) + x.shape
        target = tuple(1 if size < 0 else size for size in shape)
        node = importer.reshape_node(x.node, padded)
        return Value(node if padded == target else importer.add("expand", (node,), target), target)
    if x.node.op == "scalar":
        return x
    return Value(importer.broadcast_one(x, shape), shape)


@op("aten.repeat", "aten.tile")
def repeat(importer: Importer, x: Value, repeats: Sequence[int]) -> Value | Parts:
    shape = importer.out_shape()
    if x.token_axis == 0 and shape == (TOKENS * repeats[0], *x.shape[1:]) and repeats[0] > 1:
        one = importer.reshape_node(x.node, (1, *x.node.shape))
        node = importer.add("expand", (one,), (repeats[0], *x.node.shape))
        return Parts(Value(node, (repeats[0], *x.shape)), repeats[0], flat=True)
    padded = (1,) * (len(shape) - len(x.shape)) + x.shape
    split: list[int] = []
    split_target: list[int] = []
    for size, total in zip(padded, shape, strict=True):
        if size in (TOKENS, total):
            split, split_target = [*split, size], [*split_target, size]
        else:
            split, split_target = [*split, 1, size], [*split_target, total // size, size]
    wide = importer.reshape(x, tuple(split))
    return importer.reshape(expand_to(importer, wide, tuple(split_target)), shape)


@op("aten.repeat_interleave")
def repeat_interleave(importer: Importer, x: Value, repeats: Any, dim: int | None = None, **_: Any) -> Value:
    if not isinstance(repeats, int) or dim is None:
        raise importer.unsupported("repeats that are not a number along one axis")
    dim %= len(x.shape)
    importer.axis(x, dim)
    wide = importer.reshape(x, (*x.shape[: dim + 1], 1, *x.shape[dim + 1 :]))
    target = (*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :])
    return importer.reshape(expand_to(importer, wide, target), importer.out_shape())
