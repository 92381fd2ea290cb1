"""Tensors that hold the tokens once for each of E parts: experts that are computed for all of them.

Traced, such a tensor is [E, T, ..] or, flat, [E T, ..]. Where scores that were scattered over zeros say which
k parts a token has, only those are kept: what follows is computed for them, and a product with a matrix a
part becomes a grouped linear. Nothing is lost, for what stands at 0 stays there until the parts are summed.
"""

from typing import Any

import numpy as np

from pagedc.compiler.aten.constants import uniform
from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.reduce import root
from pagedc.compiler.aten.table import PARTS, TABLE, op
from pagedc.compiler.aten.values import TOKENS, Parts, Value
from pagedc.compiler.aten.views import permute
from pagedc.compiler.graph import Node
from pagedc.compiler.interpret import UNARY

VIEWS = {"aten.view", "aten.reshape", "aten._unsafe_view"}
PRODUCTS = {"aten.bmm", "aten.matmul"}
# 0 where the parts are 0: all of them, or for a product any.
KEEP_ZERO = {
    *("aten.silu", "aten.gelu", "aten.relu", "aten.tanh", "aten.neg", "aten.add", "aten.sub", "aten.mul"),
    *("aten.to", "aten._to_copy", "aten.clone", "aten.contiguous", "aten.alias", "aten.dropout"),
    *("aten.chunk", "aten.split", "aten.split_with_sizes"),
}
SUMS = {"aten.add", "aten.sub"}


@op(PARTS)
def parts_value(importer: Importer, name: str, *arguments: Any, **keywords: Any) -> Any:
    """Any op of which an argument is parts. Raises UnsupportedError."""
    first = next(argument for argument in arguments if isinstance(argument, Parts))
    if name in VIEWS:
        return _view(importer, first)
    if name in PRODUCTS and arguments[0] is first and isinstance(arguments[1], Value):
        return _product(importer, name, first, arguments[1])
    if name == "aten.sum" and not first.flat and arguments[1] in (0, [0]):
        return TABLE[name](importer, first.value, *arguments[1:], **keywords)
    others = [argument for argument in arguments if isinstance(argument, Parts)]
    if name == "aten.mul" and len(others) == 2:
        others = _chosen(importer, *others)
        arguments = tuple(others)
    first = others[0]
    same = all(other.flat == first.flat and other.chosen is first.chosen for other in others)
    numbers = [argument for argument in arguments if isinstance(argument, Value)]
    if not same or any(value.node.size > 1 for value in numbers) or name not in KEEP_ZERO:
        raise importer.unsupported("tokens repeated for each of several parts")
    if first.chosen is not None and name in SUMS and len(others) < 2:
        raise importer.unsupported("a number added to parts that a token has not")
    if first.flat and name in ("aten.chunk", "aten.split", "aten.split_with_sizes"):
        raise importer.unsupported("a split of tokens repeated for each of several parts")
    plain = [argument.value if isinstance(argument, Parts) else argument for argument in arguments]
    result = TABLE[name](importer, *plain, **keywords)
    if isinstance(result, Value):
        return first._replace(value=result)
    return tuple(first._replace(value=part) for part in result)


def _view(importer: Importer, x: Parts) -> Parts | Value:
    shape = importer.out_shape()
    flat = shape[0] == TOKENS * x.num_parts
    if not flat and shape[:2] != (x.num_parts, TOKENS):
        raise importer.unsupported("a view that mixes parts and tokens")
    rest = shape[1:] if flat else shape[2:]
    value = importer.reshape(x.value, (x.value.shape[0], TOKENS, *rest))
    return value if x.chosen is None and not flat else x._replace(value=value, flat=flat)


def _product(importer: Importer, name: str, x: Parts, weight: Value) -> Parts:
    """[E, T, K] times [E, K, N]."""
    if x.chosen is None or x.flat or len(weight.shape) != 3 or weight.token_axis is not None:
        raise importer.unsupported("a product of tokens repeated for each of several parts")
    table = permute(importer, weight, (0, 2, 1))
    inputs = (x.value.node, x.chosen, table.node)
    node = importer.add("grouped_linear", inputs, (x.value.shape[0], weight.shape[2]), "float32")
    return x._replace(value=Value(node, (x.value.shape[0], TOKENS, weight.shape[2])))


def _chosen(importer: Importer, a: Parts, b: Parts) -> list[Parts]:
    """Both factors, of the parts alone for which one is not 0, where the trace says which those are."""
    for x, scores in ((a, b), (b, a)):
        found = None if x.chosen or scores.chosen else _scattered(importer, scores)
        wide = x.value.node
        if found is not None and wide.op == "expand" and wide.inputs[0].shape[0] == 1:
            index, values = found
            shape = (index.size, *wide.shape[1:])
            node = importer.add("expand", (wide.inputs[0],), shape)
            one = Value(node, (index.size, *x.value.shape[1:]))
            other = importer.reshape(values, (index.size, *scores.value.shape[1:]))
            return [Parts(value, x.num_parts, x.flat, index) for value in (one, other)]
    return [a, b]


def _scattered(importer: Importer, scores: Parts) -> tuple[Node, Value] | None:
    """Which k parts have a score and what it is, of scores [E, T, 1] that are 0 elsewhere."""
    node, functions = scores.value.node, list[str]()
    while node not in importer.scattered:
        if node.op not in UNARY and node.op not in ("reshape", "cast"):
            return None
        functions += [node.op] if node.op in UNARY else []
        node = node.inputs[0]
    base, index, source = importer.scattered[node]
    fill = uniform(base.node)
    if fill is None or node.size != scores.num_parts or root(index.node).op != "topk_index":
        return None  # indexes that may name a part twice
    elsewhere = np.float32(fill)
    for function in reversed(functions):
        elsewhere = UNARY[function](elsewhere)  # type: ignore[arg-type, assignment]
        source = importer.pointwise(function, source)
    return (index.node, Value(source.node, (index.node.size, TOKENS))) if elsewhere == 0 else None
