"""Round what linears read to bfloat16, once, where it is made: the kernels multiply bfloat16 by weights of any format but f32."""

from pagedc.compiler.graph import Graph, Node


def round_inputs(graph: Graph) -> int:
    """Put a cast before each linear whose weights are not float32; returns the number of casts."""
    casts: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("linear", "grouped_linear") or node.inputs[-1].attrs["format"] == "f32":
            continue
        x = node.inputs[0]
        if x not in casts:
            cast = Node("cast", (x,), x.shape, "bfloat16", x.domain, {}, x.origin, f"{x.name}_bf16")
            casts[x] = cast
            graph.nodes.append(cast)
        node.inputs = (casts[x], *node.inputs[1:])
    graph.sort()
    return len(casts)
