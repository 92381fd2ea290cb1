"""Parts of axes, and joins of them."""

from collections.abc import Sequence
from typing import Any

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.index import rows_of
from pagedc.compiler.aten.table import op
from pagedc.compiler.aten.values import TOKENS, Shifted, Value, without_tokens
from pagedc.compiler.aten.views import expand_to


@op("aten.slice", "aten.narrow")
def slice_(
    importer: Importer, x: Value, dim: int = 0, start: Any = None, stop: Any = None, step: int = 1
) -> Value | Shifted:
    dim %= len(x.shape)
    cut = -stop if type(stop) is int and not start and step == 1 else 0
    if dim == x.token_axis and cut > 0 and not importer.meta.shape[dim].node.expr.is_Symbol:
        return Shifted(x, removed=cut)  # as many as a convolution's padding added leave T: that is x
    if importer.out_shape()[dim] == TOKENS and x.token_axis is None:
        return _of_tokens(importer, x, dim, start, step)
    if dim == x.token_axis:
        if importer.out_shape() != x.shape or step != 1:
            raise importer.unsupported("a part of the tokens")
        return x
    first, last = _bound(start, x.shape[dim], 0), _bound(stop, x.shape[dim], x.shape[dim])
    return slice_along(importer, x, dim, first, last, step)


def _of_tokens(importer: Importer, x: Value, dim: int, start: Any, step: int) -> Value:
    """The first T entries of a constant along an axis, or from a number on: an entry for each position."""
    if x.shape[dim] == 1:
        return x  # the same for each token
    if step != 1 or (start is not None and type(start) is not int) or (start or 0) < 0:
        raise importer.unsupported("a part of a constant that depends on the number of tokens")
    ids = importer.positions()
    return rows_of(importer, x, dim, importer.pointwise("add", ids, start) if start else ids)


def _bound(bound: int | None, size: int, default: int) -> int:
    if bound is None:
        return default
    return max(0, bound + size) if bound < 0 else min(bound, size)


def slice_along(importer: Importer, x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """x[.., start : stop : step, ..] along one axis."""
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
    return slice_along(importer, x, dim, index, index + 1)


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
        parts.append(slice_along(importer, x, dim, start, start + size))
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
        raise importer.unsupported("tokens joined to others; no kernel knows of more than one key of a token")
    sizes = [value.shape[dim] for value in values]
    nodes = []
    for value, size in zip(values, sizes, strict=True):
        nodes.append(importer.broadcast_one(value, (*shape[:dim], size, *shape[dim + 1 :])))
    if len(nodes) == 1:
        return Value(nodes[0], shape)
    axis = dim - (TOKENS in shape[:dim])
    return Value(importer.add("cat", nodes, without_tokens(shape), axis=axis), shape)


@op("aten.flip")
def flip(importer: Importer, x: Value, dims: Sequence[int]) -> Value:
    """Entry by entry: axes that are turned around are short."""
    for dim in (dim % len(x.shape) for dim in dims):
        importer.axis(x, dim)
        parts = [slice_along(importer, x, dim, index, index + 1) for index in reversed(range(x.shape[dim]))]
        x = join(importer, parts, dim, x.shape)
    return x


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
    before, after = slice_along(importer, x, dim, 0, first), slice_along(importer, x, dim, last, shape[dim])
    parts = [before, *middle, after]
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
        run = slice_along(importer, x, dim, first, first + whole * step)
        kept = importer.reshape(run, (*before, whole, step, *after))
        kept = slice_along(importer, kept, dim + 1, 1, step)
        taken = importer.reshape(slice_along(importer, source, dim, 0, whole), (*before, whole, 1, *after))
        steps = join(importer, [taken, kept], dim + 1, (*before, whole, step, *after))
        parts.append(importer.reshape(steps, (*before, whole * step, *after)))
    if count > whole:
        parts.append(slice_along(importer, source, dim, whole, count))
        parts.append(slice_along(importer, x, dim, first + whole * step + 1, last))
    return parts
