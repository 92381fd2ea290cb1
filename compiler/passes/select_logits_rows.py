"""Compute logits for sampled rows only: the head and all after it move to the row domain."""

from pagedc.compiler.graph import Graph, Node


def select_logits_rows(graph: Graph) -> int:
    """Move the head, and the row ops after it, to the row domain; returns the number of values gathered."""
    heads, tail = find_heads(graph.logits)
    selected: dict[Node, Node] = {}

    def row(value: Node) -> Node:
        if value in tail or value in heads or value.domain != "token":
            return value
        if value not in selected:
            node = Node(
                "select_rows",
                (value,),
                value.shape,
                value.dtype,
                "row",
                {},
                value.origin,
                f"{value.name}_rows",
            )
            selected[value] = node
        return selected[value]

    for node in [*heads, *tail]:
        if node.domain == "token":
            node.domain = "row"
            node.inputs = tuple(row(value) for value in node.inputs)
    graph.nodes.extend(selected.values())
    graph.sort()
    return len(selected)


def find_heads(output: Node) -> tuple[list[Node], list[Node]]:
    """The anchors that feed the logits through row ops alone, and those row ops."""
    heads: list[Node] = []
    tail: list[Node] = []
    stack = [output]
    while stack:
        node = stack.pop()
        if node in heads or node in tail or node.domain == "const":
            continue
        if node.op == "linear":
            heads.append(node)
        elif node.is_row_op:
            tail.append(node)
            stack.extend(node.inputs)
    return heads, tail
