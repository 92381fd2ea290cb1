"""Values over pairs of tokens: the scores and weights of an attention that a module computes itself.

No node of the graph holds a value for each pair of tokens. What is made between q · kᵀ and weights · v is
followed symbolically, and what happens to the scores in between is read off the trace by running it
(`compiler/masks.py`); the three together become one attention anchor.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Node as FxNode

from pagedc.compiler.aten.builder import op_name
from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.ranges import join
from pagedc.compiler.aten.table import PAIRS, NoRuleError, op
from pagedc.compiler.aten.values import TOKENS, Value, without_tokens
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


@op(PAIRS)
def pair_value(importer: Importer, node: FxNode, arguments: tuple[Any, ...]) -> Any:
    """The value of a node that makes or reads pairs of tokens. Raises UnsupportedError."""
    name = op_name(node)
    if name in MADE_OF_OTHERS:
        raise NoRuleError(name, "")
    if name == "pagedc.attention":
        return attention(importer, *arguments)
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


def attention_node(
    importer: Importer, q: Node, k: Node, v: Node, found: Scores, sinks: Node | None = None
) -> Node:
    """The anchor; q [.., H, D], k and v [.., Hkv, D] per token, the heads of a group side by side."""
    heads = q.size // q.shape[-1]
    # Keys and values that were only repeated, as a whole or for each head of a group, are stored once.
    once = [_untiled(x, heads) for x in (k, v)]
    if None not in once and sinks is None and not found.mask.slopes:
        return _tiled_attention(importer, q, once, found)
    k, v = _unrepeated(k, heads), _unrepeated(v, heads)
    k_heads, v_heads = (x.size // x.shape[-1] for x in (k, v))
    if k_heads != v_heads:
        k, v = (_repeated(importer, x, max(k_heads, v_heads)) for x in (k, v))
    for x in (k, v):
        if heads % (x.size // x.shape[-1]) or not _is_grouped(q.shape[:-1], x.shape[:-1]):
            raise importer.unsupported(f"{list(q.shape)} queries of {list(x.shape)} keys")
    inputs = [importer.reshape_node(x, (x.size // x.shape[-1], x.shape[-1])) for x in (q, k, v)]
    if sinks is not None:
        inputs.append(sinks)
    mask = found.mask
    if mask.slopes:
        slopes = mask.slopes * (heads if len(mask.slopes) == 1 else 1)
        if len(slopes) != heads:
            raise importer.unsupported(f"{len(slopes)} slopes of {heads} heads")
        inputs.append(importer.constant(torch.tensor(slopes, dtype=torch.float32)).node)
    layer = importer.num_attention_layers
    importer.num_attention_layers += 1
    return importer.add(
        "attention",
        inputs,
        (heads, v.shape[-1]),
        scale=found.scale,
        window=mask.window,
        chunk=mask.chunk,
        softcap=found.softcap,
        sinks=sinks is not None,
        slopes=bool(mask.slopes),
        layer=layer,
    )


def _tiled_attention(importer: Importer, q: Node, once: Sequence[Any], found: Scores) -> Node:
    """The attention with heads that share a key side by side, and its outputs in the order of before."""
    k, v = once
    heads, count = q.size // q.shape[-1], k.shape[-2]
    side_by_side = _turned(importer, q, (heads // count, count))
    return _turned(importer, attention_node(importer, side_by_side, k, v, found), (count, heads // count))


def _turned(importer: Importer, x: Node, axes: tuple[int, int]) -> Node:
    """x [a b, D] as [b a, D]."""
    a, b = axes
    wide = importer.reshape_node(x, (a, b, x.shape[-1]))
    turned = importer.add("permute", (wide,), (b, a, x.shape[-1]), axes=(1, 0, 2))
    return importer.reshape_node(turned, (a * b, x.shape[-1]))


def _untiled(x: Node, heads: int) -> Node | None:
    """[.., Hkv, D] where x is its expansion to [.., group, Hkv, D], seen as [heads, D]."""
    wide = x.inputs[0] if x.op == "reshape" else x
    source = wide.inputs[0] if wide.op == "expand" else x
    if (
        len(source.shape) >= 3
        and source.shape[-2] > 1
        and source.size == source.shape[-2] * source.shape[-1]
        and source.shape[-2:] == wide.shape[-2:]
        and x.shape[-1] == source.shape[-1]
        and wide.size == heads * source.shape[-1] > source.size
    ):
        return source
    return None


def _unrepeated(x: Node, heads: int) -> Node:
    """[.., Hkv, 1, D] where x is its expansion to [.., Hkv, group, D], seen as [heads, D]."""
    if x.op == "reshape" and x.inputs[0].op == "expand":
        wide = x.inputs[0]
        source = wide.inputs[0]
        if (
            wide.shape[-1] == source.shape[-1] == x.shape[-1]
            and len(source.shape) >= 3
            and source.shape[-2] == 1
            and source.shape[:-2] == wide.shape[:-2]
            and wide.size // wide.shape[-1] == heads
        ):
            return source
    return x


def _repeated(importer: Importer, x: Node, heads: int) -> Node:
    count, width = x.size // x.shape[-1], x.shape[-1]
    if count == heads:
        return x
    if heads % count:
        raise importer.unsupported(f"{heads} and {count} heads of keys and values")
    wide = importer.reshape_node(x, (count, 1, width))
    wide = importer.add("expand", (wide,), (count, heads // count, width))
    return importer.reshape_node(wide, (heads, width))


def _is_grouped(q: tuple[int, ...], k: tuple[int, ...]) -> bool:
    """Whether the axes of k are those of q, the last ones 1, or one axis that holds the first of them."""
    q, k = (tuple(size for size in shape) for shape in (q, k))
    while len(q) > 1 and q[0] == 1:
        q = q[1:]
    while len(k) > 1 and k[0] == 1:
        k = k[1:]
    while len(k) > 1 and k[-1] == 1:
        k = k[:-1]
    return len(q) == 1 or k == (1,) or k == q[: len(k)]


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
) -> Value:
    """q [1, H, T, D], k [1, Hkv, T, D], v [1, Hkv, T, Dv] → [1, T, H, Dv]."""
    if any(value.shape[0] != 1 or value.token_axis != 2 for value in (q, k, v)):
        raise importer.unsupported("attention of keys that are not the tokens' own")
    if isinstance(mask, KeyBias):
        q, k, form = _with_bias(importer, q, k, mask, scale, softcap)
    else:
        form = _read(importer, mask, window)
    found = Scores(form, scale, softcap)
    node = attention_node(importer, q.node, k.node, v.node, found, None if sinks is None else sinks.node)
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
    """q [.., H, T, D], k [.., Hkv, T, D], v [.., Hkv, T, Dv] → [.., H, T, Dv]."""
    if mask is None and not is_causal:
        raise importer.unsupported("attention that is not causal; pagedc compiles decoders")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    node = attention_node(importer, q.node, k.node, v.node, Scores(_read(importer, mask, 0), scale, 0.0))
    shape = importer.out_shape()
    return Value(importer.reshape_node(node, without_tokens(shape)), shape)


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
