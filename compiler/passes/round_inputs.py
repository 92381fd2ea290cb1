"""Round what linears read to bfloat16, once, where it is made.

The kernels multiply bfloat16 by weights of any format but f32.
"""

from pagedc.compiler.graph import Graph, Node


def round_inputs(graph: Graph) -> int:
    """Put a cast before each linear whose weights are not float32; returns the number of casts."""
    casts: dict[Node, Node] = {}
    users = graph.users()
    for node in list(graph.nodes):
        if node.op not in ("linear", "grouped_linear") or node.inputs[-1].attrs["format"] == "f32":
            continue
        x = node.inputs[0]
        if x.dtype == "bfloat16" or _attention_rounds(x, users):
            continue
        if x not in casts:
            cast = Node("cast", (x,), x.shape, "bfloat16", x.domain, {}, x.origin, f"{x.name}_bf16")
            casts[x] = cast
            graph.nodes.append(cast)
        node.inputs = (casts[x], *node.inputs[1:])
    graph.sort()
    return len(casts)


def _attention_rounds(x: Node, users: dict[Node, list[Node]]) -> bool:
    """An attention that only this linear reads stores bfloat16 itself."""
    chain = [x]
    while chain[-1].op == "reshape":
        chain.append(chain[-1].inputs[0])
    if chain[-1].op != "attention" or any(len(users[value]) != 1 for value in chain):
        return False
    for value in chain:
        value.dtype = "bfloat16"
    return True
