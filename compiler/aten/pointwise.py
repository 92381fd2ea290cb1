"""Ops on single elements, and the compositions of them that modules call by one name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pagedc.compiler.aten.constants import uniform
from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.table import op
from pagedc.compiler.aten.values import Value, dtype_of
from pagedc.compiler.aten.views import expand_to
from pagedc.compiler.interpret import evaluate
from pagedc.compiler.passes.fold_constants import depends_on_parameters


def _unary(name: str, *aten: str) -> None:
    @op(*aten)
    def function(importer: Importer, x: Value, **_: Any) -> Value:
        return importer.pointwise(name, importer.cast(x, "float32"))


for _name in (
    "abs",
    "exp",
    "log",
    "log1p",
    "sin",
    "cos",
    "tanh",
    "erf",
    "sqrt",
    "rsqrt",
    "sigmoid",
    "reciprocal",
    "floor",
):
    _unary(_name, f"aten.{_name}", f"aten.{_name}_")


@op("aten.erfinv")
def erfinv(importer: Importer, x: Value) -> Value:
    if x.node.domain != "const" or depends_on_parameters(x.node):
        raise importer.unsupported("the inverse error function of what is not known when it is compiled")
    known = np.asarray(evaluate(x.node, dict[str, Any]().__getitem__), np.float64)
    return importer.constant(torch.erfinv(torch.from_numpy(known)))


@op("aten.expm1")
def expm1(importer: Importer, x: Value) -> Value:
    return importer.pointwise("sub", importer.pointwise("exp", x), 1.0)


@op("aten.neg")
def neg(importer: Importer, x: Value) -> Value:
    return importer.pointwise("neg", x)


def _common_type(importer: Importer, *arguments: Any) -> list[Value]:
    values = [importer.value(argument) for argument in arguments]
    order = {"bool": 0, "int32": 1, "float32": 2}
    top = max((value.node.dtype for value in values), key=lambda dtype: order[dtype])
    return [importer.cast(value, top) for value in values]


def _arithmetic(name: str, *aten: str) -> None:
    @op(*aten)
    def function(importer: Importer, x: Any, y: Any, *, alpha: float = 1) -> Value:
        a, b = _common_type(importer, x, y)
        if a.node.dtype == "bool":
            a, b = importer.cast(a, "int32"), importer.cast(b, "int32")
        if alpha != 1:
            b = importer.pointwise("mul", *_common_type(importer, b, alpha))
        return importer.pointwise(name, a, b)


_arithmetic("add", "aten.add", "aten.add_")
_arithmetic("sub", "aten.sub", "aten.sub_")
_arithmetic("mul", "aten.mul", "aten.mul_", "aten.multiply")
_arithmetic("maximum", "aten.maximum")
_arithmetic("minimum", "aten.minimum")
_arithmetic("mod", "aten.remainder")


@op("aten.rsub")
def rsub(importer: Importer, x: Any, y: Any, alpha: float = 1) -> Value:
    a, b = _common_type(importer, y, importer.pointwise("mul", *_common_type(importer, x, alpha)))
    return importer.pointwise("sub", a, b)


@op("aten.div", "aten.div_", "aten.true_divide")
def div(importer: Importer, x: Any, y: Any, *, rounding_mode: str | None = None) -> Value:
    a, b = _common_type(importer, x, y)
    if rounding_mode == "floor" and a.node.dtype == "int32":
        return importer.pointwise("floordiv", a, b)
    result = importer.pointwise("div", importer.cast(a, "float32"), importer.cast(b, "float32"))
    if rounding_mode == "floor":
        return importer.pointwise("floor", result)
    if rounding_mode is not None:
        raise importer.unsupported(f"rounding_mode={rounding_mode}")
    return result


@op("aten.floor_divide")
def floor_divide(importer: Importer, x: Any, y: Any) -> Value:
    return div(importer, x, y, rounding_mode="floor")


@op("aten.pow")
def pow_(importer: Importer, x: Any, y: Any) -> Value:
    if y == 2:
        return importer.pointwise("mul", x, x)
    if y == 3:
        return importer.pointwise("mul", importer.pointwise("mul", x, x), x)
    if y == 0.5:
        return importer.pointwise("sqrt", x)
    if y == -0.5:
        return importer.pointwise("rsqrt", x)
    a, b = importer.value(x), importer.value(y)
    return importer.pointwise("pow", importer.cast(a, "float32"), importer.cast(b, "float32"))


@op("aten.square")
def square(importer: Importer, x: Value) -> Value:
    return importer.pointwise("mul", x, x)


def _compare(name: str) -> None:
    @op(f"aten.{name}")
    def function(importer: Importer, x: Any, y: Any) -> Value:
        a, b = _common_type(importer, x, y)
        return importer.pointwise(name, a, b, dtype="bool")


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _compare(_name)


@op("aten.bitwise_and", "aten.logical_and", "aten.__and__")
def and_(importer: Importer, x: Value, y: Value) -> Value:
    return _logical(importer, "and", x, y)


@op("aten.bitwise_or", "aten.logical_or", "aten.__or__")
def or_(importer: Importer, x: Value, y: Value) -> Value:
    return _logical(importer, "or", x, y)


@op("aten.bitwise_not", "aten.logical_not")
def not_(importer: Importer, x: Value) -> Value:
    return _logical(importer, "not", x)


def _logical(importer: Importer, name: str, *values: Value) -> Value:
    if any(value.node.dtype != "bool" for value in values):
        raise importer.unsupported("bits of integers")
    return importer.pointwise(name, *values)


@op("aten.where")
def where(importer: Importer, condition: Value, x: Any, y: Any) -> Value:
    a, b = _common_type(importer, x, y)
    known = uniform(condition.node)
    if known is not None:
        return expand_to(importer, a if known else b, importer.out_shape())
    return importer.pointwise("where", condition, a, b, dtype=a.node.dtype)


@op("aten.masked_fill", "aten.masked_fill_")
def masked_fill(importer: Importer, x: Value, mask: Value, value: Any) -> Value:
    filler = importer.cast(importer.value(value), x.node.dtype)
    return importer.pointwise("where", mask, filler, x, dtype=x.node.dtype)


@op("aten.index_put", "aten.index_put_")
def index_put(importer: Importer, x: Value, indices: Sequence[Value | None], value: Value, *_: Any) -> Value:
    """x[mask] = number."""
    mask = indices[0] if len(indices) == 1 else None
    if mask is None or mask.node.dtype != "bool" or mask.shape != x.shape or value.node.size != 1:
        raise importer.unsupported("an assignment other than of one number where a mask says so")
    return masked_fill(importer, x, mask, importer.reshape(value, ()))


@op("aten.clamp", "aten.clip", "aten.hardtanh", "aten.clamp_")
def clamp(importer: Importer, x: Value, min: Any = None, max: Any = None, **keywords: Any) -> Value:
    low, high = keywords.get("min_val", min), keywords.get("max_val", max)
    if low is not None:
        x = importer.pointwise("maximum", *_common_type(importer, x, low))
    if high is not None:
        x = importer.pointwise("minimum", *_common_type(importer, x, high))
    return x


@op("aten.clamp_min")
def clamp_min(importer: Importer, x: Value, low: Any) -> Value:
    return clamp(importer, x, low)


@op("aten.clamp_max")
def clamp_max(importer: Importer, x: Value, high: Any) -> Value:
    return clamp(importer, x, None, high)


@op("aten.relu", "aten.relu_")
def relu(importer: Importer, x: Value) -> Value:
    return importer.pointwise("maximum", x, 0.0)


@op("aten.silu", "aten.silu_")
def silu(importer: Importer, x: Value) -> Value:
    return importer.pointwise("mul", x, importer.pointwise("sigmoid", x))


@op("aten.gelu")
def gelu(importer: Importer, x: Value, approximate: str = "none") -> Value:
    half = importer.pointwise("mul", x, 0.5)
    if approximate == "tanh":
        cube = importer.pointwise("mul", importer.pointwise("mul", x, x), x)
        inner = importer.pointwise("add", x, importer.pointwise("mul", cube, 0.044715))
        curve = importer.pointwise("tanh", importer.pointwise("mul", inner, 0.7978845608028654))
    else:
        curve = importer.pointwise("erf", importer.pointwise("mul", x, 0.7071067811865476))
    return importer.pointwise("mul", half, importer.pointwise("add", curve, 1.0))


@op("aten.softplus")
def softplus(importer: Importer, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    scaled = importer.pointwise("mul", x, float(beta))
    # log1p(exp(-|s|)) + max(s, 0) does not overflow.
    tail = importer.pointwise(
        "log1p", importer.pointwise("exp", importer.pointwise("neg", importer.pointwise("abs", scaled)))
    )
    curve = importer.pointwise("add", tail, importer.pointwise("maximum", scaled, 0.0))
    curve = importer.pointwise("mul", curve, 1.0 / beta)
    return importer.pointwise(
        "where", importer.pointwise("gt", scaled, float(threshold), dtype="bool"), x, curve, dtype="float32"
    )


@op("aten.log_sigmoid")
def log_sigmoid(importer: Importer, x: Value) -> Value:
    small = importer.pointwise("exp", importer.pointwise("neg", importer.pointwise("abs", x)))
    return importer.pointwise(
        "sub", importer.pointwise("minimum", x, 0.0), importer.pointwise("log1p", small), dtype="float32"
    )


@op("aten.leaky_relu")
def leaky_relu(importer: Importer, x: Value, slope: float = 0.01) -> Value:
    positive = importer.pointwise("gt", x, 0.0, dtype="bool")
    return importer.pointwise(
        "where", positive, x, importer.pointwise("mul", x, float(slope)), dtype="float32"
    )


@op("aten._to_copy", "aten.to", "aten.type_as")
def to(importer: Importer, x: Value, *_: Any, **__: Any) -> Value:
    return importer.cast(x, dtype_of(importer.meta.dtype))


@op(
    *("aten.clone", "aten.alias", "aten.detach", "aten.contiguous", "aten.dropout", "aten.lift_fresh_copy"),
    *("aten.native_dropout", "aten.detach_", "aten.lift_fresh"),
)
def identity(importer: Importer, x: Value, *_: Any, **__: Any) -> Value:
    return x
