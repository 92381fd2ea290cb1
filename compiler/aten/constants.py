"""Tensors of one number, and of counted ones."""

from typing import Any

import torch

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.table import op
from pagedc.compiler.aten.values import TOKENS, Value, dtype_of
from pagedc.compiler.graph import Node
from pagedc.compiler.interpret import evaluate
from pagedc.compiler.passes.fold_constants import depends_on_parameters


def uniform(node: Node) -> Any:
    """The number that every entry of a constant is, or None."""
    while node.op in ("reshape", "expand", "permute", "slice"):
        node = node.inputs[0]
    if node.op == "scalar":
        return node.attrs["value"]
    if node.op == "constant" and (node.attrs["value"] == node.attrs["value"].flat[0]).all():
        return node.attrs["value"].flat[0].item()
    if node.domain == "const" and node.size == 1 and not depends_on_parameters(node):
        return evaluate(node, dict[str, Any]().__getitem__).item()
    return None


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
