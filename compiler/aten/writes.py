"""Writes in place, and which of them a trace does not show.

torch.export records `x += y` as a node that stands for x from there on: whoever reads the nodes in order is
right. That a view of x has changed with it, or the x that a written view is of, no node says; only the
functional form of the trace does (`run_decompositions`).
"""

import operator

from torch import fx


def hides_writes(graph: fx.Graph) -> bool:
    """Whether anything is written that goes by another name too, or that no node reads by the new one."""
    return any(_is_hidden(node) for node in graph.nodes if _writes(node))


def _is_hidden(write: fx.Node) -> bool:
    target = write.args[0]
    if not isinstance(target, fx.Node) or not write.users:
        return True
    return _is_view(target) or any(_is_view(user) for user in target.users if user is not write)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_view(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and _is_view(source)
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(
        value.alias_info is not None and not value.alias_info.is_write for value in schema.returns
    )
