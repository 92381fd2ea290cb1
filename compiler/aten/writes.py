"""Writes in place, and which of them a trace does not show.

torch.export records `x += y` as a node that stands for x from there on: whoever reads the nodes in order is
right. That a view of x has changed with it, or the x that a written view is of, no node says. Here whoever
reads such a name later is given what it stands for by then. Views of other kinds than these are left to the
functional form of the trace (`run_decompositions`), which takes as long as the trace itself.
"""

import operator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
# Views that can be made anew of what was written, with what puts a written view back into what it is of.
PUT_BACK: dict[Any, Any] = {
    aten.slice.Tensor: lambda graph, base, view, args: graph.call_function(
        aten.slice_scatter.default, (base, view, *args)
    ),
    aten.permute.default: lambda graph, _, view, args: graph.call_function(
        aten.permute.default, (view, _inverse(args[0]))
    ),
}


def follow_writes(graph: fx.Graph) -> bool:
    """Give readers of a name what was written by another; False, and nothing done, at an unknown view."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    writes = [node for node in graph.nodes if _writes(node)]
    if not all(_can_follow(write, order) for write in writes):
        return False
    for write in writes:
        _follow(graph, write, order)
    return True


def _can_follow(write: fx.Node, order: dict[fx.Node, int]) -> bool:
    target = write.args[0]
    if not isinstance(target, fx.Node):
        return False
    views = _views_of(target)
    for name in _names(views[-1]):
        if name not in (target, write) and any(order[user] > order[write] for user in name.users):
            through = _views_of(name)[:-1] + views[:-1]
            if order[name] < order[write] and any(view.target not in PUT_BACK for view in through):
                return False
    return True


def _follow(graph: fx.Graph, write: fx.Node, order: dict[fx.Node, int]) -> None:
    target = write.args[0]
    assert isinstance(target, fx.Node)
    views = _views_of(target)
    now = {target: write}
    stale = [
        name
        for name in sorted(_names(views[-1]) - {write}, key=lambda name: order.get(name, -1))
        if order.get(name, 0) < order[write] and _later(name, write, order)
    ]
    with graph.inserting_before(write.next):
        if any(name is not target for name in stale):
            for view in views[:-1]:
                base = view.args[0]
                assert isinstance(base, fx.Node)
                now[base] = PUT_BACK[view.target](graph, base, now[view], view.args[1:])
                now[base].meta = {**write.meta, "val": base.meta["val"]}
            now = {target: write, views[-1]: now[views[-1]]}  # all others are views again: writes may follow
        for name in stale:
            for view in reversed(_views_of(name) if name not in now else []):
                if view not in now:
                    now[view] = graph.call_function(view.target, (now[view.args[0]], *view.args[1:]))  # type: ignore[index, arg-type]
                    now[view].meta = dict(view.meta)
    for name in stale:
        for user in _later(name, write, order):
            user.replace_input_with(name, now[name])


def _later(name: fx.Node, write: fx.Node, order: dict[fx.Node, int]) -> list[fx.Node]:
    """Who reads a name after a write, in the trace's own order; what was put in reads it as it was."""
    return [user for user in name.users if order.get(user, -1) > order[write]]


def _views_of(node: fx.Node) -> list[fx.Node]:
    """A view, what it is a view of, and so on to what is none."""
    views = [node]
    while _is_view(views[-1]) or _writes(views[-1]):
        views.append(views[-1].args[0])  # type: ignore[arg-type]
    return views


def _names(base: fx.Node) -> set[fx.Node]:
    """Everything that may share the memory of a node."""
    names, stack = set[fx.Node](), [base]
    while stack:
        node = stack.pop()
        if node not in names:
            names.add(node)
            stack += [
                user for user in node.users if _is_view(user) or (_writes(user) and user.args[0] is node)
            ]
    return names


def _inverse(dims: Any) -> list[int]:
    positive = [dim % len(dims) for dim in dims]
    return [positive.index(axis) for axis in range(len(dims))]


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
