"""Graphs written by hand, and what they mean."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedc.compiler.graph import DType, Graph, Node, Shape
from pagedc.compiler.interpret import evaluate, run

Array = NDArray[Any]


class Builder:
    """Adds nodes; parameters get random values, by name in `state`."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.state: dict[str, Array] = {}

    def add(
        self, op: str, inputs: tuple[Node, ...], shape: Shape, dtype: DType = "float32", **attrs: Any
    ) -> Node:
        leaf = op in ("scalar", "constant", "parameter", "iota")
        const = leaf or (op != "input" and all(value.domain == "const" for value in inputs))
        return self.graph.add(Node(op, inputs, shape, dtype, "const" if const else "token", attrs))

    def parameter(self, *shape: int) -> Node:
        name = f"p{len(self.state)}"
        self.state[name] = np.random.default_rng(len(self.state)).normal(size=shape).astype(np.float32)
        return self.add("parameter", (), shape, name=name)

    def scalar(self, value: float) -> Node:
        return self.add("scalar", (), (), value=value)

    def embedded(self, width: int, vocab_size: int = 6) -> Node:
        ids = self.add("input", (), (1,), "int32", name="token_ids")
        return self.add("embedding", (ids, self.parameter(vocab_size, width)), (width,))

    def linear(self, x: Node, rows: int) -> Node:
        weight = self.parameter(rows, x.shape[-1])
        return self.add("linear", (x, weight), (*x.shape[:-1], rows))

    def done(self, output: Node) -> Graph:
        self.graph.output = output
        self.graph.verify()
        return self.graph


def meaning(graph: Graph, state: Mapping[str, Array], token_ids: Array) -> Array:
    """Logits of every token, whatever passes have made of the parameters."""
    nodes = {node.attrs["name"]: node for node in graph.nodes if node.op == "parameter"}

    def value(node: Node) -> Array:
        if "parts" in node.attrs:
            return np.concatenate([value(part) for part in node.attrs["parts"]])
        if "source" in node.attrs:
            return evaluate(node.attrs["source"], state.__getitem__)
        return state[node.attrs["name"]]

    return run(graph, lambda name: value(nodes[name]), token_ids)


def count(graph: Graph, op: str) -> int:
    """Nodes of an op."""
    return sum(node.op == op for node in graph.nodes)
