"""Choose the packed layout of every matrix: what the checkpoint holds, or what was asked for."""

from collections.abc import Callable

from pagedc.compiler.graph import Graph, Node
from pagedc.compiler.passes.select_logits_rows import find_heads

MATRICES = ("linear", "grouped_linear", "embedding")


def assign_formats(graph: Graph, format_of: Callable[[Node], str]) -> int:
    """Set `format` on the table of each embedding and linear; returns the number of tables.

    Those of token embeddings and of the logits' linears are marked `vocabulary` first, and `router` those
    whose output says which of several things a token gets: rounding moves a choice as a whole.
    """
    heads, _ = find_heads(graph.logits)
    for node in graph.nodes:
        for router in find_heads(node)[0] if node.op == "topk_index" else ():
            router.inputs[1].attrs["router"] = True
    tables: dict[Node, None] = {}
    for node in graph.anchors():
        if node.op in MATRICES:
            tables[node.inputs[-1]] = None
            if node.op == "embedding" or node in heads:
                node.inputs[-1].attrs["vocabulary"] = True
    for table in tables:
        table.attrs["format"] = format_of(table)
    return len(tables)
