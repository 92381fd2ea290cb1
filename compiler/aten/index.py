"""Elements picked, or written, at computed indexes."""

from math import prod
from typing import Any

import torch

from pagedc.compiler.aten.constants import uniform
from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.table import op
from pagedc.compiler.aten.values import TOKENS, Value
from pagedc.compiler.aten.views import expand_to, permute
from pagedc.compiler.graph import Node


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
