"""The anchor of an attention: heads that share a key side by side, and a repeated key stored once."""

from collections.abc import Sequence
from typing import Any

import torch

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.graph import Node
from pagedc.compiler.mask_forms import Scores


def attention_node(
    importer: Importer,
    q: Node,
    k: Node,
    v: Node,
    found: Scores,
    sinks: Node | None = None,
    biases: Sequence[Node] = (),
) -> Node:
    """The anchor; q [.., H, D], k and v [.., Hkv, D] per token, the heads of a group side by side."""
    heads = q.size // q.shape[-1]
    # Keys and values that were only repeated, as a whole or for each head of a group, are stored once.
    one_k, one_v = _untiled(k, heads), _untiled(v, heads)
    is_of_heads = sinks is not None or found.mask.slopes or biases
    if one_k is not None and one_v is not None and not is_of_heads:
        return _tiled_attention(importer, q, one_k, one_v, found)
    inputs = [
        importer.reshape_node(x, (x.size // x.shape[-1], x.shape[-1]))
        for x in (q, *_of_groups(importer, q, k, v))
    ]
    inputs += [] if sinks is None else [sinks]
    inputs += _slopes(importer, found.mask.slopes, heads)
    inputs += biases
    extent: dict[str, Any] = {"extent": biases[1].shape[1]} if biases else {}
    importer.num_attention_layers += 1
    return importer.add(
        "attention",
        inputs,
        (heads, v.shape[-1]),
        scale=found.scale,
        window=found.mask.window,
        chunk=found.mask.chunk,
        softcap=found.softcap,
        sinks=sinks is not None,
        slopes=bool(found.mask.slopes),
        layer=importer.num_attention_layers - 1,
        **extent,
    )


def _of_groups(importer: Importer, q: Node, k: Node, v: Node) -> tuple[Node, Node]:
    """Keys and values of equally many heads, each of a group of the queries' heads."""
    heads = q.size // q.shape[-1]
    k, v = _unrepeated(k, heads), _unrepeated(v, heads)
    k_heads, v_heads = (x.size // x.shape[-1] for x in (k, v))
    if k_heads != v_heads:
        k, v = (_repeated(importer, x, max(k_heads, v_heads)) for x in (k, v))
    for x in (k, v):
        if heads % (x.size // x.shape[-1]) or not _is_grouped(q.shape[:-1], x.shape[:-1]):
            raise importer.unsupported(f"{list(q.shape)} queries of {list(x.shape)} keys")
    return k, v


def _slopes(importer: Importer, slopes: tuple[float, ...], heads: int) -> list[Node]:
    """Those of ALiBi as a table [heads], where there are any."""
    if not slopes:
        return []
    slopes = slopes * (heads if len(slopes) == 1 else 1)
    if len(slopes) != heads:
        raise importer.unsupported(f"{len(slopes)} slopes of {heads} heads")
    return [importer.constant(torch.tensor(slopes, dtype=torch.float32)).node]


def _tiled_attention(importer: Importer, q: Node, k: Node, v: Node, found: Scores) -> Node:
    """The attention with heads that share a key side by side, and its outputs in the order of before."""
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
    while len(q) > 1 and q[0] == 1:
        q = q[1:]
    while len(k) > 1 and k[0] == 1:
        k = k[1:]
    while len(k) > 1 and k[-1] == 1:
        k = k[:-1]
    return len(q) == 1 or k == (1,) or k == q[: len(k)]
