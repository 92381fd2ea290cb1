"""One spelling of each value: equal nodes are one node, and ops that change nothing are gone."""

from typing import Any

from pagedc.compiler.graph import STATEFUL, Graph, Node


def simplify(graph: Graph) -> int:
    """Remove identities and duplicates; returns how many nodes went."""
    mapping: dict[Node, Node] = {}
    known: dict[Any, Node] = {}
    for node in graph.nodes:
        node.inputs = tuple(_final(mapping, value) for value in node.inputs)
        while node.op == "reshape" and node.inputs[0].op == "reshape":
            node.inputs = node.inputs[0].inputs
        same = _identity(node)
        if same is None:
            same = known.setdefault(_key(node), node)
        if same is not node:
            mapping[node] = same
    graph.replace(mapping)
    graph.sort()
    return len(mapping)


def _final(mapping: dict[Node, Node], node: Node) -> Node:
    while node in mapping:
        node = mapping[node]
    return node


def _identity(node: Node) -> Node | None:
    """The input that a node merely repeats."""
    first = node.inputs[0] if node.inputs else None
    if node.op in ("reshape", "expand") and first is not None and first.shape == node.shape:
        return first
    if node.op == "cast" and first is not None and first.dtype == node.dtype and first.is_row_op:
        return first
    neutral = {"mul": 1.0, "add": 0.0, "sub": 0.0, "div": 1.0}.get(node.op)
    if neutral is not None and all(value.dtype == node.dtype for value in node.inputs):
        x, y = node.inputs
        if y.op == "scalar" and y.attrs["value"] == neutral and x.shape == node.shape:
            return x
        if (
            node.op in ("mul", "add")
            and x.op == "scalar"
            and x.attrs["value"] == neutral
            and y.shape == node.shape
        ):
            return y
    return None


def _key(node: Node) -> Any:
    if node.op in STATEFUL | {"constant", "parameter", "attention"}:
        return id(node)
    attrs = tuple(sorted((key, value) for key, value in node.attrs.items() if key != "source"))
    return node.op, node.inputs, node.shape, node.dtype, node.domain, attrs
