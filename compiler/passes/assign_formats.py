"""Choose the packed layout of every matrix: what the checkpoint holds, or what was asked for."""

from collections.abc import Callable

from pagedc.compiler.graph import Graph, Node


def assign_formats(graph: Graph, format_of: Callable[[Node], str]) -> int:
    """Set `format` on the table of each embedding and linear; returns the number of tables."""
    tables: dict[Node, None] = {}
    for node in graph.anchors():
        if node.op in ("linear", "grouped_linear", "embedding"):
            tables[node.inputs[-1]] = None
    for table in tables:
        table.attrs["format"] = format_of(table)
    return len(tables)
