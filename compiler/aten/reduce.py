"""Reductions over axes of one token, the norms and softmax made of them, and selection of the largest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.table import op
from pagedc.compiler.aten.values import TOKENS, Value, without_tokens
from pagedc.compiler.graph import Node

LEAST = float(np.finfo(np.float32).min)


def reduce(importer: Importer, name: str, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
    """Reduce over traced dims."""
    dims = sorted(dim % len(x.shape) for dim in dims)
    axes = tuple(importer.axis(x, dim) for dim in dims)
    shape = tuple(1 if dim in dims else size for dim, size in enumerate(x.shape))
    result = Value(importer.add(name, (x.node,), without_tokens(shape), axes=axes), shape)
    if keepdim:
        return result
    return importer.reshape(result, tuple(size for dim, size in enumerate(x.shape) if dim not in dims))


def _dims(x: Value, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(x.shape)))
    return [dim] if isinstance(dim, int) else list(dim)


@op("aten.sum")
def sum_(importer: Importer, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    if x.node.dtype == "bool":
        x = importer.cast(x, "int32")
    return reduce(importer, "sum", x, _dims(x, dim), keepdim)


@op("aten.mean")
def mean(importer: Importer, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dims = _dims(x, dim)
    count = 1
    for axis in dims:
        count *= x.shape[axis]
    return importer.pointwise("mul", reduce(importer, "sum", x, dims, keepdim), 1.0 / count)


@op("aten.var")
def var(
    importer: Importer, x: Value, dim: Any = None, *, correction: float = 1, keepdim: bool = False
) -> Value:
    dims = _dims(x, dim)
    count = 1
    for axis in dims:
        count *= x.shape[axis]
    centred = importer.pointwise("sub", x, mean(importer, x, dims, True))
    total = reduce(importer, "sum", importer.pointwise("mul", centred, centred), dims, keepdim)
    return importer.pointwise("mul", total, 1.0 / (count - correction))


@op("aten.std")
def std(
    importer: Importer,
    x: Value,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Value:
    correction = float(unbiased) if correction is None else correction
    return importer.pointwise("sqrt", var(importer, x, dim, correction=correction, keepdim=keepdim))


@op("aten.amax", "aten.max")
def amax(importer: Importer, x: Value, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(importer.meta, tuple | list):
        index = _largest(importer, x, dim, 1)
        value = reduce(importer, "max", x, [dim], keepdim)
        return value, index if keepdim else importer.reshape(index, value.shape)
    return reduce(importer, "max", x, _dims(x, dim), keepdim)


@op("aten.amin")
def amin(importer: Importer, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return reduce(importer, "min", x, _dims(x, dim), keepdim)


@op("aten.any")
def any_(importer: Importer, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    total = reduce(importer, "max", importer.cast(x, "int32"), _dims(x, dim), keepdim)
    return importer.pointwise("gt", total, 0, dtype="bool")


@op("aten.cumsum")
def cumsum(importer: Importer, x: Value, dim: int, **_: Any) -> Value:
    if importer.out_shape()[dim] == TOKENS:
        return _count(importer, x, dim % len(x.shape))
    axis = importer.axis(x, dim)
    if axis != len(x.node.shape) - 1:
        raise importer.unsupported("a running sum along another axis than the last")
    node = importer.cast(x, "int32" if x.node.dtype == "bool" else x.node.dtype).node
    return Value(importer.add("cumsum", (node,), x.node.shape, axes=(axis,)), x.shape)


def _count(importer: Importer, x: Value, dim: int) -> Value:
    """A running sum over tokens: of a constant, or of the tokens that are not padding: prompts hold none."""
    counted = x.node
    while counted.op in ("cast", "reshape"):
        counted = counted.inputs[0]
    is_mask = counted.op == "ne" and {"input", "scalar"} == {root(value).op for value in counted.inputs}
    if x.token_axis is not None and not is_mask:
        raise importer.unsupported("a running sum over tokens")
    shape = tuple(TOKENS if axis == dim else 1 for axis in range(len(x.shape)))
    number = importer.pointwise("add", importer.reshape(importer.positions(), shape), 1)
    return number if is_mask else importer.pointwise("mul", importer.cast(x, "int32"), number)


def root(node: Node) -> Node:
    """What stands behind casts and views."""
    while node.op in ("cast", "reshape", "expand"):
        node = node.inputs[0]
    return node


@op("aten._softmax", "aten.softmax")
def softmax(importer: Importer, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    peak = reduce(importer, "max", x, [dim], True)
    weights = importer.pointwise("exp", importer.pointwise("sub", x, peak))
    return importer.pointwise("div", weights, reduce(importer, "sum", weights, [dim], True))


@op("aten._log_softmax", "aten.log_softmax")
def log_softmax(importer: Importer, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    shifted = importer.pointwise("sub", x, reduce(importer, "max", x, [dim], True))
    total = reduce(importer, "sum", importer.pointwise("exp", shifted), [dim], True)
    return importer.pointwise("sub", shifted, importer.pointwise("log", total))


@op("aten.logsumexp")
def logsumexp(importer: Importer, x: Value, dim: Any, keepdim: bool = False) -> Value:
    dims = _dims(x, dim)
    # Of numbers that are all -inf the largest, taken from them, would be nan.
    peak = importer.pointwise("maximum", reduce(importer, "max", x, dims, True), LEAST)
    weights = importer.pointwise("exp", importer.pointwise("sub", x, peak))
    total = importer.pointwise("log", reduce(importer, "sum", weights, dims, True))
    result = importer.pointwise("add", total, peak)
    return result if keepdim else importer.reshape(result, importer.out_shape())


@op("aten.layer_norm")
def layer_norm(
    importer: Importer,
    x: Value,
    normalized: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    dims = list(range(len(x.shape) - len(normalized), len(x.shape)))
    centred = importer.pointwise("sub", x, mean(importer, x, dims, True))
    variance = mean(importer, importer.pointwise("mul", centred, centred), dims, True)
    result = importer.pointwise(
        "mul", centred, importer.pointwise("rsqrt", importer.pointwise("add", variance, float(eps)))
    )
    if weight is not None:
        result = importer.pointwise("mul", result, weight)
    return result if bias is None else importer.pointwise("add", result, bias)


@op("aten.native_layer_norm")
def native_layer_norm(
    importer: Importer, x: Value, normalized: Sequence[int], weight: Any, bias: Any, eps: float
) -> tuple[Value]:
    return (layer_norm(importer, x, normalized, weight, bias, eps),)


@op("aten.rms_norm")
def rms_norm(
    importer: Importer, x: Value, normalized: Sequence[int], weight: Any = None, eps: Any = None
) -> Value:
    dims = list(range(len(x.shape) - len(normalized), len(x.shape)))
    square = mean(importer, importer.pointwise("mul", x, x), dims, True)
    scale = importer.pointwise(
        "rsqrt", importer.pointwise("add", square, float(eps if eps is not None else 1.1920929e-07))
    )
    result = importer.pointwise("mul", x, scale)
    return result if weight is None else importer.pointwise("mul", result, weight)


@op("aten.linalg_vector_norm", "aten.norm")
def vector_norm(
    importer: Importer, x: Value, order: float = 2, dim: Any = None, keepdim: bool = False, **_: Any
) -> Value:
    if order == 1:
        return reduce(importer, "sum", importer.pointwise("abs", x), _dims(x, dim), keepdim)
    if order != 2:
        raise importer.unsupported(f"a norm of order {order}")
    return importer.pointwise(
        "sqrt", reduce(importer, "sum", importer.pointwise("mul", x, x), _dims(x, dim), keepdim)
    )


@op("aten.topk")
def topk(
    importer: Importer, x: Value, k: int, dim: int = -1, largest: bool = True, *_: Any, **__: Any
) -> tuple[Value, Value]:
    if not largest:
        x = importer.pointwise("neg", x)
    index = _largest(importer, x, dim, k)
    values = importer.add(
        "gather", (x.node, index.node), index.node.shape, x.node.dtype, axis=importer.axis(x, dim)
    )
    result = Value(values, index.shape)
    return result if largest else importer.pointwise("neg", result), index


@op("aten.argmax")
def argmax(importer: Importer, x: Value, dim: int, keepdim: bool = False) -> Value:
    return importer.reshape(_largest(importer, x, dim, 1), importer.out_shape())


def _largest(importer: Importer, x: Value, dim: int, k: int) -> Value:
    """Indexes of the k largest along the last axis, largest first, the lower index first among equals."""
    axis = importer.axis(x, dim)
    if axis != len(x.node.shape) - 1 or x.shape[-1] == TOKENS:
        raise importer.unsupported("a selection along another axis than the last")
    shape = (*x.shape[:-1], k)
    return Value(importer.add("topk_index", (x.node,), without_tokens(shape), "int32", k=k), shape)
