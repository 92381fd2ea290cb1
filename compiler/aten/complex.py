"""Complex numbers: rotary embeddings that are written as products with e^(i angle).

A complex value is two real ones; index maps act on both.
"""

from typing import Any, NamedTuple

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.ranges import join
from pagedc.compiler.aten.table import COMPLEX, TABLE, op
from pagedc.compiler.aten.values import Value


class Complex(NamedTuple):
    """Real and imaginary part."""

    real: Value
    imaginary: Value


@op("aten.polar")
def polar(importer: Importer, length: Value, angle: Value) -> Complex:
    """length · e^(i angle)."""
    parts = (importer.pointwise(name, angle) for name in ("cos", "sin"))
    return Complex(*(importer.pointwise("mul", length, part) for part in parts))


@op("aten.view_as_complex")
def view_as_complex(importer: Importer, x: Value) -> Complex:
    """[.., 2] → [..]."""
    return Complex(*(TABLE["aten.select"](importer, x, -1, index) for index in (0, 1)))


@op("aten.view_as_real")
def view_as_real(importer: Importer, x: Complex) -> Value:
    """[..] → [.., 2]."""
    shape = importer.out_shape()
    parts = [importer.reshape(part, (*part.shape, 1)) for part in x]
    return join(importer, parts, len(shape) - 1, shape)


@op(COMPLEX)
def complex_value(importer: Importer, name: str, *arguments: Any, **keywords: Any) -> Any:
    """Any other op of which an argument is complex."""
    if name in ("aten.mul", "aten.mul_"):
        return _product(importer, *arguments[:2])
    if name in ("aten.to", "aten._to_copy", "aten.type_as") and importer.meta.dtype.is_complex:
        return arguments[0]
    if name not in INDEX_MAPS:
        raise importer.unsupported("complex numbers")
    x, *rest = arguments
    return Complex(*(TABLE[name](importer, part, *rest, **keywords) for part in x))


INDEX_MAPS = {
    *("aten.view", "aten.reshape", "aten.unsqueeze", "aten.squeeze", "aten.permute", "aten.transpose"),
    *("aten.expand", "aten.slice", "aten.select", "aten.alias", "aten.clone", "aten.contiguous"),
    *("aten.index", "aten.flatten"),
}


def _product(importer: Importer, a: Any, b: Any) -> Complex:
    if not (isinstance(a, Complex) and isinstance(b, Complex)):
        (number, x) = (b, a) if isinstance(a, Complex) else (a, b)
        return Complex(*(importer.pointwise("mul", part, number) for part in x))
    (ar, ai), (br, bi) = a, b
    real = importer.pointwise("sub", *(importer.pointwise("mul", x, y) for x, y in ((ar, br), (ai, bi))))
    imaginary = importer.pointwise("add", *(importer.pointwise("mul", x, y) for x, y in ((ar, bi), (ai, br))))
    return Complex(real, imaginary)
