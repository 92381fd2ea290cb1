"""Values over pairs of tokens: the scores and weights of an attention that a module computes itself.

No node of the graph holds a value for each pair of tokens. What is made between q · kᵀ and weights · v is
followed symbolically, and what happens to the scores in between is read off the trace by running it
(`compiler/masks.py`); the three together become one attention anchor.
"""

from typing import Any, NamedTuple

import torch
from torch.fx import Node as FxNode

from pagedc.compiler.aten.attention_node import attention_node
from pagedc.compiler.aten.builder import op_name
from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.linear import matmul
from pagedc.compiler.aten.ranges import join
from pagedc.compiler.aten.reduce import softmax
from pagedc.compiler.aten.table import PAIRS, NoRuleError, op
from pagedc.compiler.aten.values import TOKENS, Value, without_tokens
from pagedc.compiler.aten.views import permute, transpose
from pagedc.compiler.graph import Node
from pagedc.compiler.mask_forms import Mask, MaskError, Scores

SOFTMAX = ("aten.softmax", "aten._softmax", "aten._safe_softmax")
PRODUCTS = ("aten.matmul", "aten.mm", "aten.bmm")
MADE_OF_OTHERS = ("aten.baddbmm", "aten.einsum")  # the decomposed trace has the product by itself
SAME = {
    *("aten.view", "aten.reshape", "aten._unsafe_view", "aten.unsqueeze", "aten.squeeze", "aten.expand"),
    *("aten.to", "aten._to_copy", "aten.type_as", "aten.clone", "aten.contiguous", "aten.alias"),
    *("aten.dropout", "aten.native_dropout", "aten.detach", "aten.detach_"),
}


class Pairs(NamedTuple):
    """q · kᵀ and what became of it; `softmax` is the node that made weights of it."""

    q: Value
    k: Value  # transposed: the token axis is its last
    product: FxNode
    softmax: FxNode | None = None


class KeyBias(NamedTuple):
    """A number of each key, the same for each query, on its way to be added to the scores."""

    value: Value  # [.., G, 1, T]
    expanded: FxNode


class DistanceBias(NamedTuple):
    """Numbers of each query for the distance to a key, on their way to be added to the scores."""

    value: Value  # [1, H, T, extent]
    distance: FxNode
    factor: Value | None = None  # of a query
    hidden: FxNode | None = None  # from a distance on there is none


@op(PAIRS)
def pair_value(importer: Importer, node: FxNode, arguments: tuple[Any, ...]) -> Any:
    """The value of a node that makes or reads pairs of tokens. Raises UnsupportedError."""
    name = op_name(node)
    if name in MADE_OF_OTHERS:
        raise NoRuleError(name, "")
    if name == "pagedc.attention":
        return attention(importer, *arguments)
    if name == "aten.gather" or any(isinstance(argument, DistanceBias) for argument in arguments):
        return _distance_bias(importer, name, arguments)
    if any(isinstance(argument, KeyBias) for argument in arguments):
        return next(a for a in arguments if isinstance(a, KeyBias))  # run, as scores are
    if name == "aten.expand" and isinstance(arguments[0], Value):
        value = arguments[0]
        if len(value.shape) > 2 and value.shape[-2:] == (1, TOKENS):
            return KeyBias(value, node)
    pairs = next((a for a in arguments if isinstance(a, Pairs)), None)
    if pairs is None:
        if name in PRODUCTS:
            q, k = (a for a in arguments[-2:])
            if isinstance(q, Value) and isinstance(k, Value) and q.shape[-2] == k.shape[-1] == TOKENS:
                return Pairs(q, k, node)
        raise importer.unsupported("a value for each pair of tokens")
    if pairs.softmax is None:
        if name in SOFTMAX:
            return pairs._replace(softmax=node)
        return pairs  # run, not followed: MaskReader says what it means, or refuses
    if name in PRODUCTS and arguments[0] is pairs and isinstance(arguments[1], Value):
        return _weigh(importer, pairs, arguments[1])
    if name not in SAME:
        raise importer.unsupported("attention weights that are changed after their softmax")
    return (pairs,) if name == "aten.native_dropout" else pairs


def _distance_bias(importer: Importer, name: str, arguments: tuple[Any, ...]) -> DistanceBias:
    """Biases [1, H, T, extent] taken by an index of pairs, hidden by a mask, times a number of each query."""
    if name == "aten.where" and arguments[1] in importer.masks.static:
        hidden, number, first = arguments
        name, arguments = "aten.masked_fill", (first, hidden, importer.masks.number(number))
    first, *others = arguments
    if name == "aten.gather" and _is_of_queries(first) and others[0] in (-1, len(first.shape) - 1):
        return DistanceBias(first, others[1])
    if isinstance(first, DistanceBias):
        if name in ("aten.masked_fill", "aten.masked_fill_") and others[1] == 0 and first.hidden is None:
            return first._replace(hidden=others[0])
        if name in SAME:
            return first
        factor = others[0] if name in ("aten.mul", "aten.mul_") and first.factor is None else None
        if isinstance(factor, Value) and _is_of_queries(factor) and factor.node.size == 1:
            return first._replace(factor=factor)
    raise importer.unsupported("a value for each pair of tokens")


def _is_of_queries(value: Value) -> bool:
    return value.token_axis == len(value.shape) - 2


def _weigh(importer: Importer, pairs: Pairs, v: Value) -> Value:
    assert pairs.softmax is not None
    dim = pairs.softmax.args[1]
    if v.shape[-2] != TOKENS or dim not in (-1, len(pairs.softmax.meta["val"].shape) - 1):
        raise importer.unsupported("weights of another axis than the keys'")
    scores = pairs.softmax.args[0]
    assert isinstance(scores, FxNode)
    try:
        found = importer.masks.read_scores(pairs.product, scores)
    except MaskError as error:
        raise importer.unsupported(str(error)) from error
    node = attention_node(importer, pairs.q.node, pairs.k.node, v.node, found)
    shape = importer.out_shape()
    return Value(importer.reshape_node(node, without_tokens(shape)), shape)


@op("pagedc.attention")
def attention(
    importer: Importer,
    q: Value,
    k: Value,
    v: Value,
    sinks: Any,
    mask: Any,
    scale: float,
    window: int,
    softcap: float,
    position_bias: Any = None,
) -> Value:
    """q [1, H, T, D], k [1, Hkv, T, D], v [1, Hkv, T, Dv] → [1, T, H, Dv]."""
    if any(value.shape[0] != 1 or value.token_axis != 2 for value in (q, k, v)):
        raise importer.unsupported("attention of keys that are not the tokens' own")
    if isinstance(mask, KeyBias):
        q, k, form = _with_bias(importer, q, k, mask, scale, softcap)
    else:
        form = _read(importer, mask, window)
    found = Scores(form, scale, softcap)
    sink = None if sinks is None else sinks.node
    biases = [] if position_bias is None else _biases(importer, position_bias, q.shape[1], found)
    node = attention_node(importer, q.node, k.node, v.node, found, sink, biases)
    return Value(importer.reshape_node(node, (1, *node.shape)), (1, TOKENS, *node.shape))


@op("aten.scaled_dot_product_attention")
def scaled_dot_product_attention(
    importer: Importer,
    q: Value,
    k: Value,
    v: Value,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """q [.., H, T, D], k [.., Hkv, T, D], v [.., Hkv, T, Dv] → [.., H, T, Dv].

    Inside a token, without keys of others, they are [.., T, N, D].
    """
    if mask is None and not is_causal and k.token_axis == v.token_axis == len(k.shape) - 3:
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        scores = importer.pointwise("mul", matmul(importer, q, transpose(importer, k, -1, -2)), float(scale))
        return matmul(importer, softmax(importer, scores, -1), v)
    if mask is None and not is_causal:
        raise importer.unsupported("attention that is not causal; pagedc compiles decoders")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    node = attention_node(importer, q.node, k.node, v.node, Scores(_read(importer, mask, 0), scale, 0.0))
    shape = importer.out_shape()
    return Value(importer.reshape_node(node, without_tokens(shape)), shape)


def _biases(importer: Importer, bias: Any, heads: int, found: Scores) -> list[Node]:
    """What the anchor reads: x [H, R] / scale of a token, and profiles [R, extent] of the distance."""
    source = bias.value.node if isinstance(bias, DistanceBias) and bias.hidden is not None else None
    while source is not None and source.op == "reshape":
        source = source.inputs[0]
    if source is None or source.op != "linear" or found.softcap:
        raise importer.unsupported(
            "a bias other than a product of a query's numbers with some of the distance"
        )
    x, weight = source.inputs
    extent, rank = weight.shape
    try:
        importer.masks.check_distances(bias.distance, bias.hidden, extent)
    except MaskError as error:
        raise importer.unsupported(str(error)) from error
    numbers = importer.pointwise("mul", Value(x, (1, TOKENS, heads, rank)), 1.0 / found.scale)
    if bias.factor is not None:
        factor = importer.reshape(bias.factor, (1, TOKENS, 1, 1))
        numbers = importer.pointwise("mul", numbers, factor)
    profiles = permute(importer, Value(weight, weight.shape), (1, 0))
    return [importer.reshape_node(numbers.node, (heads, rank)), profiles.node]


def _with_bias(
    importer: Importer, q: Value, k: Value, bias: KeyBias, scale: float, softcap: float
) -> tuple[Value, Value, Mask]:
    """q with 1 / scale, and k with the number that is added to its scores, as one more element of each."""
    mask = importer.current.args[4] if importer.current is not None else None
    assert isinstance(mask, FxNode)
    try:
        form, groups = importer.masks.read_bias(bias.expanded, mask)
    except MaskError as error:
        raise importer.unsupported(str(error)) from error
    heads, k_heads = q.shape[1], k.shape[1]
    count = bias.value.node.size
    if softcap or k_heads != count or groups != [head * count // heads for head in range(heads)]:
        raise importer.unsupported("a bias of each key that is not one of its own head")
    one = importer.constant(torch.full((1, heads, 1, 1), 1.0 / scale))
    number = importer.reshape(bias.value, (1, count, TOKENS, 1))
    wide = (q.shape[3] + 1,)
    q = join(importer, [q, one], 3, (1, heads, TOKENS, *wide))
    return q, join(importer, [k, number], 3, (1, count, TOKENS, *wide)), form


def _read(importer: Importer, mask: Any, window: int) -> Mask:
    """What a mask lets a token see; `window` where there is none: the tokens before it."""
    if mask is None:
        return Mask(window)
    if not isinstance(mask, FxNode):
        raise importer.unsupported("a mask that depends on more than positions")
    try:
        return importer.masks.read_mask(mask)
    except MaskError as error:
        raise importer.unsupported(str(error)) from error
