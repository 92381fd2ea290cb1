"""Compute what does not depend on tokens: now, or when the weights are packed where it needs them."""

import numpy as np

from pagedc.compiler.graph import INDEX, Graph, Node
from pagedc.compiler.interpret import evaluate

# Ops that move no data: a row kernel reads through them, so what stands below them is stored, not its
# expansion.
FREE = INDEX - {"cat", "iota"}


def fold_constants(graph: Graph) -> int:
    """Replace constant subgraphs by `constant` or derived `parameter` nodes; returns how many."""
    folded: dict[Node, Node] = {}
    for reader in graph.nodes:
        if reader.domain == "const":
            continue
        inputs = []
        for value in reader.inputs:
            is_table = reader.is_anchor and value.domain == "const"
            inputs.append(_fold(graph, value, folded, through=not is_table))
        reader.inputs = tuple(inputs)
    graph.nodes = [*folded.values(), *graph.nodes]
    graph.sort()
    return len(folded)


def _fold(graph: Graph, value: Node, folded: dict[Node, Node], through: bool) -> Node:
    if value.domain != "const" or value.op in ("parameter", "scalar", "constant"):
        return value
    if value in folded:
        return folded[value]
    if through and value.op in FREE:
        value.inputs = tuple(_fold(graph, source, folded, through) for source in value.inputs)
        return value
    folded[value] = _constant(graph, value)
    return folded[value]


def _constant(graph: Graph, value: Node) -> Node:
    graph.counter += 1
    name = f"folded_{graph.counter}"
    if depends_on_parameters(value):
        return Node(
            "parameter",
            (),
            value.shape,
            value.dtype,
            "const",
            {"name": f"{name}", "source": value},
            value.origin,
            name,
        )

    def no_parameters(name: str) -> np.ndarray:
        raise KeyError(name)

    array = np.ascontiguousarray(evaluate(value, no_parameters))
    if array.ndim == 0:
        return Node("scalar", (), (), value.dtype, "const", {"value": array.item()}, value.origin, name)
    return Node("constant", (), value.shape, value.dtype, "const", {"value": array}, value.origin, name)


def depends_on_parameters(value: Node) -> bool:
    """Whether a constant needs the checkpoint."""
    stack, seen = [value], set()
    while stack:
        node = stack.pop()
        if node.op == "parameter":
            return True
        if node not in seen:
            seen.add(node)
            stack.extend(node.inputs)
    return False
