"""Matrix products, and what reads a table: the ops that become anchors."""

from collections.abc import Sequence
from typing import Any

from pagedc.compiler.aten.constants import uniform
from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.ranges import join, slice_along, unsqueezed_select
from pagedc.compiler.aten.reduce import reduce
from pagedc.compiler.aten.table import op
from pagedc.compiler.aten.values import TOKENS, Value, without_tokens
from pagedc.compiler.aten.views import expand_to, permute


def anchor_linear(importer: Importer, x: Value, weight: Value) -> Value:
    """x [..., K] times weight [N, K] over the last axis."""
    shape = (*x.shape[:-1], weight.shape[0])
    return Value(importer.add("linear", (x.node, weight.node), without_tokens(shape)), shape)


@op("aten.linear")
def linear(importer: Importer, x: Value, weight: Value, bias: Any = None) -> Value:
    result = anchor_linear(importer, x, weight)
    return result if bias is None else importer.pointwise("add", result, bias)


@op("aten.addmm")
def addmm(importer: Importer, bias: Value, x: Value, weight: Value, **_: Any) -> Value:
    return importer.pointwise("add", matmul(importer, x, weight), bias)


@op("aten.mm", "aten.bmm", "aten.matmul")
def matmul(importer: Importer, a: Value, b: Value) -> Value:
    if (
        a.token_axis is not None
        and b.token_axis is None
        and a.shape[-1] != TOKENS
        and len(without_units(b.shape)) == 2
    ):
        weight = importer.reshape(b, b.shape[-2:])
        return anchor_linear(importer, a, permute(importer, weight, (1, 0)))
    if b.shape[-1] == TOKENS and a.token_axis is None and len(without_units(a.shape)) == 2:
        # weight [N, K] times x [..., K, T]: the tokens stand last.
        weight = importer.reshape(a, a.shape[-2:])
        shape = (*b.shape[:-2], weight.shape[0], TOKENS)
        return Value(importer.add("linear", (b.node, weight.node), without_tokens(shape)), shape)
    if a.token_axis == len(a.shape) - 2 and b.token_axis is None and a.shape[:-2] == b.shape[:-2] != ():
        return by_block(importer, a, b)
    return _product(importer, a, b)


def by_block(importer: Importer, a: Value, b: Value) -> Value:
    """x [H, T, K] times weights [H, K, N]: a linear each of the H parts of a token's value."""
    if len(a.shape) > 3:
        raise importer.unsupported(f"a product of {list(a.shape)} with constants {list(b.shape)}")
    parts = []
    for block in range(b.shape[0]):
        weight = importer.reshape(slice_along(importer, b, 0, block, block + 1), b.shape[1:])
        x = slice_along(importer, a, 0, block, block + 1)
        parts.append(anchor_linear(importer, x, permute(importer, weight, (1, 0))))
    return join(importer, parts, 0, (b.shape[0], TOKENS, b.shape[2]))


def _product(importer: Importer, a: Value, b: Value) -> Value:
    """A product inside a token, as a sum of products: [.., M, K], [.., K, N] → [.., M, K, N] → [.., M, N]."""
    if a.shape[-1] == TOKENS or b.shape[-2] == TOKENS:
        raise importer.unsupported("a product summed over tokens")
    left = importer.reshape(a, (*a.shape, 1))
    right = importer.reshape(b, (*b.shape[:-2], 1, *b.shape[-2:]))
    products = importer.pointwise("mul", left, right)
    if a.shape[-1] == 1:
        return importer.reshape(products, importer.out_shape())
    return reduce(importer, "sum", products, [len(products.shape) - 2], False)


def without_units(shape: Sequence[int]) -> list[int]:
    """The shape without leading axes of one."""
    sizes = list(shape)
    while len(sizes) > 2 and sizes[0] == 1:
        sizes.pop(0)
    return sizes


@op("aten.embedding")
def embedding(importer: Importer, table: Value, ids: Value, *_: Any, **__: Any) -> Value:
    shape = (*ids.shape, table.shape[-1])
    number = uniform(ids.node)
    if number is not None and table.token_axis is None:  # one row for every token
        row = unsqueezed_select(importer, table, 0, int(number))
        row = importer.reshape(row, (*(1,) * len(ids.shape), table.shape[-1]))
        return expand_to(importer, row, shape)
    if table.token_axis is not None or ids.token_axis is None:
        raise importer.unsupported("a table that depends on tokens, or ids that do not")
    return Value(
        importer.add("embedding", (ids.node, table.node), without_tokens(shape), table.node.dtype), shape
    )


@op("aten.index")
def index(importer: Importer, x: Value, indices: Sequence[Value | None]) -> Value:
    given = [axis for axis, ids in enumerate(indices) if ids is not None]
    ids = indices[given[0]] if len(given) == 1 else None
    if ids is not None and ids.node.op == "constant" and len(ids.shape) == 1:
        return _pick(importer, x, given[0], ids.node.attrs["value"].tolist())
    if x.token_axis is not None or ids is None or given != [0] or len(x.shape) < 2:
        raise importer.unsupported("an index other than rows of a table by token")
    rows, width = x.shape[0], without_tokens(x.shape[1:])
    size = 1
    for axis in width:
        size *= axis
    flat = embedding(importer, importer.reshape(x, (rows, size)), ids)
    return importer.reshape(flat, (*ids.shape, *x.shape[1:]))


def _pick(importer: Importer, x: Value, axis: int, numbers: list[int]) -> Value:
    parts = [unsqueezed_select(importer, x, axis, number) for number in numbers]
    return join(importer, parts, axis, importer.out_shape())


@op("aten.index_select")
def index_select(importer: Importer, x: Value, dim: int, ids: Value) -> Value:
    if dim != 0:
        raise importer.unsupported(f"a selection along axis {dim} of a table")
    return index(importer, x, [ids])


@op("pagedc.grouped_linear")
def grouped_linear(importer: Importer, x: Value, index: Value, weight: Value) -> Value:
    """x [T, K] or [T, top_k, K], index [T, top_k], weight [E, N, K] → [T, top_k, N]."""
    shape = (*index.shape, weight.shape[1])
    inputs = (x.node, index.node, weight.node)
    return Value(importer.add("grouped_linear", inputs, without_tokens(shape), "float32"), shape)


@op("pagedc.grouped_bias")
def grouped_bias(importer: Importer, index: Value, bias: Value) -> Value:
    """Rows of bias [E, N] by index [T, top_k] → [T, top_k, N]."""
    return embedding(importer, bias, index)
