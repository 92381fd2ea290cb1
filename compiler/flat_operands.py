"""What anchors read: runs of stored values, seen through index maps that move no data."""

from pagedc.compiler.graph import INDEX, STATEFUL, Graph, Node

FREE = INDEX - {"cat", "iota"}  # ops that move no data
STRIDED = STATEFUL | {"attention", "linear"}  # anchors that may read part of a row


def store_operands(graph: Graph) -> None:
    """Give each anchor operands that lie flat in a row of some buffer: a copy where they do not."""
    copies: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if not (node.is_anchor or node.op == "select_rows"):
            continue
        whole = node.op not in STRIDED or (
            node.op == "linear" and node.inputs[0].size != node.inputs[0].shape[-1]
        )
        node.inputs = tuple(_flat(value, copies, whole) for value in node.inputs)
    graph.output = _flat(graph.logits, copies, whole=True)
    graph.nodes.extend(copies.values())


def _flat(value: Node, copies: dict[Node, Node], whole: bool) -> Node:
    """The value, or a copy; `whole` wants a buffer of its own: rows of several vectors have no stride."""
    view = view_of(value)
    if value.domain == "const" or (view is not None and (not whole or view[0].size == value.size)):
        return value
    if value not in copies:
        copies[value] = Node(
            "cast",
            (value,),
            value.shape,
            value.dtype,
            value.domain,
            {},
            value.origin,
            f"{value.name}_copy",
        )
    return copies[value]


def view_of(value: Node) -> tuple[Node, int] | None:
    """The stored value that `value` is a run of, and where it starts; None where it is not contiguous."""
    offset = 0
    while value.op in FREE:
        source = value.inputs[0]
        if value.op == "slice":
            axis, (start, _, step) = value.attrs["axis"], value.attrs["range"]
            if step != 1 or any(size != 1 for size in value.shape[:axis]):
                return None
            stride = 1
            for size in source.shape[axis + 1 :]:
                stride *= size
            offset += start * stride
        elif value.op == "expand":
            return None
        elif value.op == "permute":
            kept = [axis for axis in value.attrs["axes"] if source.shape[axis] != 1]
            if kept != sorted(kept):
                return None
        value = source
    return None if value.domain == "const" else (value, offset)


def root_of(value: Node) -> Node:
    """What an index map reads in the end."""
    while value.op in FREE:
        value = value.inputs[0]
    return value
