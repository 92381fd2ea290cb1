"""linear(x, w1), linear(x, w2), …  →  slices of linear(x, rows of w1, w2, …): fewer barriers."""

from collections import defaultdict

from pagedc.compiler.graph import Graph, Node


def merge_linears(graph: Graph) -> int:
    """Merge linears that read the same value through weights of the same format; returns how many went."""
    groups: dict[tuple[Node, str], list[Node]] = defaultdict(list)
    for node in graph.anchors("linear"):
        groups[node.inputs[0], node.inputs[1].attrs["format"]].append(node)
    merged = 0
    weights: dict[tuple[Node, ...], Node] = {}  # a layer that runs several times has one
    for (x, _), linears in groups.items():
        if len(linears) > 1 and x.domain != "const":
            _merge(graph, x, linears, weights)
            merged += len(linears) - 1
    graph.sort()
    return merged


def _merge(graph: Graph, x: Node, linears: list[Node], known: dict[tuple[Node, ...], Node]) -> None:
    weights = tuple(node.inputs[1] for node in linears)
    rows = [weight.shape[0] for weight in weights]
    first = linears[0]
    position = graph.nodes.index(first)
    if weights not in known:
        known[weights] = _stacked(weights)
        graph.nodes.insert(position, known[weights])
        position += 1
    weight = known[weights]
    whole = Node(
        "linear", (x, weight), (*first.shape[:-1], sum(rows)), "float32", first.domain, {}, _common(linears)
    )
    whole.name = f"{first.name}_merged"
    mapping, start = {}, 0
    for node, size in zip(linears, rows, strict=True):
        attrs = {"axis": len(node.shape) - 1, "range": (start, start + size, 1)}
        part = Node(
            "slice", (whole,), node.shape, "float32", node.domain, attrs, node.origin, f"{node.name}_part"
        )
        mapping[node] = part
        start += size
    graph.nodes[position:position] = [whole, *mapping.values()]
    graph.replace(mapping)


def _stacked(weights: tuple[Node, ...]) -> Node:
    shape = (sum(weight.shape[0] for weight in weights), weights[0].shape[1])
    attrs = {
        "name": "|".join(weight.attrs["name"] for weight in weights),
        "parts": list(weights),
        "format": weights[0].attrs["format"],
    }
    return Node("parameter", (), shape, "float32", "const", attrs, "", f"{weights[0].name}_merged")


def _common(linears: list[Node]) -> str:
    """`layers.0.self_attn.{q_proj|k_proj}`."""
    paths = [node.origin.rsplit(".", 1) for node in linears]
    if len({path[0] for path in paths}) == 1 and all(len(path) == 2 for path in paths):
        return f"{paths[0][0]}.{{{'|'.join(path[1] for path in paths)}}}"
    return "|".join(node.origin for node in linears)
