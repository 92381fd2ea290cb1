"""Views, slices, joins: ops that only say where an element lies."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from pagedc.compiler.aten.importer import TOKENS, Importer, Parts, Value, dtype_of, op, without_tokens
from pagedc.compiler.graph import Node

END = 2**62


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


@op("aten.slice", "aten.narrow")
def slice_(
    importer: Importer, x: Value, dim: int = 0, start: Any = None, stop: Any = None, step: int = 1
) -> Value:
    dim %= len(x.shape)
    if importer.out_shape()[dim] == TOKENS and x.token_axis is None:
        return _of_tokens(importer, x, dim, start, step)
    if dim == x.token_axis:
        if importer.out_shape() != x.shape or step != 1:
            raise importer.unsupported("a part of the tokens")
        return x
    first, last = _bound(start, x.shape[dim], 0), _bound(stop, x.shape[dim], x.shape[dim])
    return _slice(importer, x, dim, first, last, step)


def _of_tokens(importer: Importer, x: Value, dim: int, start: Any, step: int) -> Value:
    """The first T entries of a constant along an axis, or from a number on: an entry for each position."""
    if x.shape[dim] == 1:
        return x  # the same for each token
    if step != 1 or (start is not None and type(start) is not int) or (start or 0) < 0:
        raise importer.unsupported("a part of a constant that depends on the number of tokens")
    ids = importer.positions()
    return rows_of(importer, x, dim, importer.pointwise("add", ids, start) if start else ids)


def rows_of(importer: Importer, x: Value, dim: int, ids: Value) -> Value:
    """Entries of a constant along one axis, one for each token; ids [.., T] with no other axes than 1."""
    number = uniform(x.node)
    shape = (*x.shape[:dim], TOKENS, *x.shape[dim + 1 :])
    if number is not None:
        return expand_to(importer, importer.scalar(number, x.node.dtype), shape)
    rest = [size for axis, size in enumerate(x.shape) if axis != dim]
    width = prod(rest)
    table = permute(importer, x, [dim, *(axis for axis in range(len(x.shape)) if axis != dim)])
    table = importer.cast(importer.reshape(table, (x.shape[dim], width)), "float32")
    node = importer.add(
        "embedding", (importer.reshape_node(ids.node, (1,)), table.node), (1, width), "float32"
    )
    return importer.cast(Value(importer.reshape_node(node, tuple(rest)), shape), x.node.dtype)


def uniform(node: Node) -> Any:
    """The number that every entry of a constant is, or None."""
    while node.op in ("reshape", "expand", "permute", "slice"):
        node = node.inputs[0]
    if node.op == "scalar":
        return node.attrs["value"]
    if node.op == "constant" and (node.attrs["value"] == node.attrs["value"].flat[0]).all():
        return node.attrs["value"].flat[0].item()
    return None


def _bound(bound: int | None, size: int, default: int) -> int:
    if bound is None:
        return default
    return max(0, bound + size) if bound < 0 else min(bound, size)


def _slice(importer: Importer, x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    size = -(-(stop - start) // step)
    if size == x.shape[dim]:
        return x
    shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
    if size == 0:
        return Value(x.node, shape)  # nothing of it is read: a join drops it
    axis = importer.axis(x, dim)
    return Value(
        importer.add("slice", (x.node,), without_tokens(shape), axis=axis, range=(start, stop, step)), shape
    )


@op("aten.select")
def select(importer: Importer, x: Value, dim: int, index: int) -> Value:
    dim %= len(x.shape)
    part = unsqueezed_select(importer, x, dim, index)
    return importer.reshape(part, x.shape[:dim] + x.shape[dim + 1 :])


def unsqueezed_select(importer: Importer, x: Value, dim: int, index: int) -> Value:
    """One entry along an axis, which stays with size 1."""
    importer.axis(x, dim)
    index %= x.shape[dim]
    return _slice(importer, x, dim, index, index + 1)


@op(
    "aten.split",
    "aten.split_with_sizes",
    "aten.chunk",
    "aten.unsafe_chunk",
    "aten.unsafe_split",
    "aten.tensor_split",
)
def split(importer: Importer, x: Value, _: Any, dim: int = 0) -> tuple[Value, ...]:
    dim %= len(x.shape)
    importer.axis(x, dim)
    parts, start = [], 0
    for index in range(len(importer.meta)):
        size = importer.out_shape(index)[dim]
        parts.append(_slice(importer, x, dim, start, start + size))
        start += size
    return tuple(parts)


@op("aten.unbind")
def unbind(importer: Importer, x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(select(importer, x, dim, index) for index in range(x.shape[dim]))


@op("aten.cat", "aten.concat", "aten.concatenate")
def cat(importer: Importer, values: Sequence[Value], dim: int = 0) -> Value:
    shape = importer.out_shape()
    return join(importer, [value for value in values if 0 not in value.shape], dim, shape)


def join(importer: Importer, values: Sequence[Value], dim: int, shape: tuple[int, ...]) -> Value:
    """Values side by side along one axis of a traced shape."""
    dim %= len(shape)
    if shape[dim] < 0:
        raise importer.unsupported("tokens joined to tokens")
    sizes = [value.shape[dim] for value in values]
    nodes = []
    for value, size in zip(values, sizes, strict=True):
        nodes.append(importer.broadcast_one(value, (*shape[:dim], size, *shape[dim + 1 :])))
    if len(nodes) == 1:
        return Value(nodes[0], shape)
    axis = dim - (TOKENS in shape[:dim])
    return Value(importer.add("cat", nodes, without_tokens(shape), axis=axis), shape)


@op("aten.stack")
def stack(importer: Importer, values: Sequence[Value], dim: int = 0) -> Value:
    dim %= len(importer.out_shape())
    parts = [importer.reshape(value, (*value.shape[:dim], 1, *value.shape[dim:])) for value in values]
    return join(importer, parts, dim, importer.out_shape())


@op("aten.slice_scatter")
def slice_scatter(
    importer: Importer,
    x: Value,
    source: Value,
    dim: int = 0,
    start: Any = None,
    stop: Any = None,
    step: int = 1,
) -> Value:
    """x with a range along dim replaced."""
    dim %= len(x.shape)
    if dim == x.token_axis or (x.token_axis is None and importer.out_shape()[dim] == TOKENS):
        if step != 1 or source.shape != importer.out_shape():
            raise importer.unsupported("a part of the tokens")
        return source
    shape = importer.out_shape()
    first, last = _bound(start, shape[dim], 0), _bound(stop, shape[dim], shape[dim])
    x = expand_to(importer, x, shape)
    middle = [source] if step == 1 else _every(importer, x, source, dim, (first, last), step)
    parts = [_slice(importer, x, dim, 0, first), *middle, _slice(importer, x, dim, last, shape[dim])]
    return join(importer, [part for part in parts if 0 not in part.shape], dim, shape)


def _every(
    importer: Importer, x: Value, source: Value, dim: int, bounds: tuple[int, int], step: int
) -> list[Value]:
    """The range of x with the first of each `step` replaced: whole steps are an axis of their own."""
    first, last = bounds
    before, after = x.shape[:dim], x.shape[dim + 1 :]
    whole, count = (last - first) // step, -(-(last - first) // step)
    source = expand_to(importer, source, (*before, count, *after))
    parts = []
    if whole:
        run = _slice(importer, x, dim, first, first + whole * step)
        kept = importer.reshape(run, (*before, whole, step, *after))
        kept = _slice(importer, kept, dim + 1, 1, step)
        taken = importer.reshape(_slice(importer, source, dim, 0, whole), (*before, whole, 1, *after))
        steps = join(importer, [taken, kept], dim + 1, (*before, whole, step, *after))
        parts.append(importer.reshape(steps, (*before, whole * step, *after)))
    if count > whole:
        parts.append(_slice(importer, source, dim, whole, count))
        parts.append(_slice(importer, x, dim, first + whole * step + 1, last))
    return parts


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


@op("aten.arange")
def arange(importer: Importer, *arguments: Any, **_: Any) -> Value:
    shape = importer.out_shape()
    if shape == (TOKENS,):
        start, step = (*arguments[: len(arguments) - 1][:1], 0)[0], (*arguments[2:3], 1)[0]
        if type(start) is not int or step != 1:
            raise importer.unsupported("indexes of tokens counted from another end")
        return importer.pointwise("add", importer.positions(), start) if start else importer.positions()
    if min(shape, default=0) < 0:
        raise importer.unsupported("indexes of more than the tokens")
    bounds = [argument for argument in arguments if isinstance(argument, int | float)]
    return importer.constant(torch.arange(*bounds, dtype=importer.meta.dtype))


@op("aten.full", "aten.zeros", "aten.ones", "aten.new_full", "aten.new_zeros", "aten.new_ones")
@op("aten.empty", "aten.new_empty", "aten.empty_like")
@op("aten.full_like", "aten.zeros_like", "aten.ones_like", "aten.scalar_tensor", "aten.fill", "aten.fill_")
def full(importer: Importer, *arguments: Any, **_: Any) -> Value:
    name = str(importer.current.target) if importer.current is not None else ""
    number: Any = 0 if "zeros" in name or "empty" in name else 1 if "ones" in name else arguments[-1]
    if isinstance(number, Value):
        if number.node.op != "scalar":
            raise importer.unsupported("a fill that is not a number")
        number = number.node.attrs["value"]
    scalar = importer.scalar(number, dtype_of(importer.meta.dtype))
    shape = tuple(1 if size < 0 else size for size in importer.out_shape())
    if not shape:
        return scalar
    wide = importer.reshape_node(scalar.node, (1,) * len(shape))
    return Value(wide if wide.shape == shape else importer.add("expand", (wide,), shape), shape)


@op("aten.gather")
def gather(importer: Importer, x: Value, dim: int, index: Value, **_: Any) -> Value:
    same = all(a in (b, TOKENS) for a, b in zip(index.shape, x.shape, strict=True))
    is_row = index.token_axis == dim % len(x.shape) and _id(index.node).size == 1
    if x.node.domain == "const" and is_row and (same or uniform(x.node) is not None):
        return rows_of(importer, x, dim % len(x.shape), Value(_id(index.node), (TOKENS,)))
    axis = importer.axis(index, dim)
    source = x.shape if x.token_axis == index.token_axis else None
    if source is None:
        raise importer.unsupported("a gather that crosses tokens")
    return Value(
        importer.add("gather", (x.node, index.node), index.node.shape, x.node.dtype, axis=axis), index.shape
    )


def _id(node: Node) -> Node:
    """An index before it was repeated."""
    while node.op in ("reshape", "expand"):
        node = node.inputs[0]
    return node


@op("aten.scatter", "aten.scatter_")
def scatter(importer: Importer, x: Value, dim: int, index: Value, source: Any, **_: Any) -> Value:
    """out[.., i, ..] = source where any index equals i: each position compared with all indexes."""
    axis = importer.axis(index, dim)
    if axis != len(index.node.shape) - 1:
        raise importer.unsupported("a scatter along another axis than the last")
    width, count = x.shape[-1], index.shape[-1]
    positions = importer.constant(torch.arange(width, dtype=torch.int32))
    wide = importer.reshape(index, (*index.shape[:-1], 1, count))
    column = importer.reshape(positions, (width, 1))
    hit = importer.cast(importer.pointwise("eq", wide, column, dtype="bool"), "float32")
    target = importer.value(source)
    if isinstance(source, Value) and source.node.op != "scalar":
        part = importer.pointwise("mul", hit, importer.reshape(source, (*source.shape[:-1], 1, count)))
        values = _sum_last(importer, part)
        result = importer.pointwise("where", _any(importer, hit), values, x, dtype=x.node.dtype)
        importer.scattered[result.node] = (x, index, source)
        return result
    return importer.pointwise(
        "where", _any(importer, hit), importer.cast(target, x.node.dtype), x, dtype=x.node.dtype
    )


def _sum_last(importer: Importer, x: Value) -> Value:
    shape = (*x.node.shape[:-1], 1)
    node = importer.add("sum", (x.node,), shape, axes=(len(shape) - 1,))
    return importer.reshape(Value(node, (*x.shape[:-1], 1)), x.shape[:-1])


def _any(importer: Importer, hit: Value) -> Value:
    return importer.pointwise("gt", _sum_last(importer, hit), 0.0, dtype="bool")
