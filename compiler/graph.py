"""The intermediate representation: a list of nodes over per-token values.

A value has a *domain*: `token` (one per token of the flat batch, its shape is that of one token), `row` (one
per sampled row), or `const` (the same for all). No shape holds the token axis: each value at token t depends
only on values at token t, except through an anchor. Two kinds of op:

- anchors, worth a kernel of their own: `embedding`, `linear`, `grouped_linear`, `attention`, and those that
  carry state from token to token, `causal_conv`, `linear_recurrence` and `running_max`;
- row ops: pointwise, reductions, and index maps, which fuse without rules.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from pagedc.compiler.errors import InternalError

Domain = Literal["const", "token", "row"]
DType = Literal["float32", "bfloat16", "int32", "bool"]
Shape = tuple[int, ...]

TRANSCENDENTAL = frozenset(["exp", "log", "log1p", "sin", "cos", "tanh", "erf", "sigmoid"])
UNARY = TRANSCENDENTAL | {"neg", "abs", "sqrt", "rsqrt", "reciprocal", "floor", "not", "cast"}
ARITHMETIC = frozenset(["add", "sub", "mul", "div", "pow", "maximum", "minimum", "mod", "floordiv"])
BINARY = ARITHMETIC | {"eq", "ne", "lt", "le", "gt", "ge", "and", "or"}
POINTWISE = UNARY | BINARY | {"where"}
REDUCE = frozenset(["sum", "max", "min", "cumsum"])
INDEX = frozenset(["reshape", "permute", "slice", "cat", "expand", "iota"])
SELECT = frozenset(["gather", "topk_index"])
ROW_OPS = POINTWISE | REDUCE | INDEX | SELECT
STATEFUL = frozenset(["causal_conv", "linear_recurrence", "running_max"])
ANCHORS = frozenset(["embedding", "linear", "grouped_linear", "attention"]) | STATEFUL
LEAVES = frozenset(["input", "scalar", "constant", "parameter"])
# `select_rows` moves a value from the token domain to the row domain.
ALL_OPS = ROW_OPS | ANCHORS | LEAVES | {"select_rows"}


@dataclass(eq=False, slots=True)
class Node:
    """One value: an op applied to other values."""

    op: str
    inputs: tuple["Node", ...]
    shape: Shape
    dtype: DType = "float32"
    domain: Domain = "token"
    attrs: dict[str, Any] = field(default_factory=dict)
    origin: str = ""  # path of the module it was traced from
    name: str = ""  # given by Graph.add

    @property
    def size(self) -> int:
        """Elements of one token's value."""
        return prod(self.shape)

    @property
    def is_anchor(self) -> bool:
        """Whether it is worth a kernel of its own."""
        return self.op in ANCHORS

    @property
    def is_row_op(self) -> bool:
        """Whether it fuses with its neighbours."""
        return self.op in ROW_OPS and self.domain != "const"

    def __repr__(self) -> str:
        return self.name or self.op


@dataclass(slots=True)
class Graph:
    """Nodes in topological order, and the one that is the logits."""

    nodes: list[Node] = field(default_factory=list)
    output: Node | None = None
    counter: int = 0
    max_tokens: int | None = None  # of a sequence that it was traced for; None = any number

    def add(self, node: Node) -> Node:
        """Append a node and name it."""
        node.name = f"{node.op}_{self.counter}"
        self.counter += 1
        self.nodes.append(node)
        return node

    @property
    def logits(self) -> Node:
        """The output; raises InternalError before it is set."""
        if self.output is None:
            raise InternalError("the graph has no output yet")
        return self.output

    def anchors(self, op: str | None = None) -> Iterator[Node]:
        """Anchors in order, or those of one kind."""
        return (node for node in self.nodes if node.is_anchor and op in (None, node.op))

    def users(self) -> dict[Node, list[Node]]:
        """Who reads each node, in order."""
        users: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                users[value].append(node)
        return users

    def replace(self, mapping: dict[Node, Node]) -> None:
        """Let every reader of a key read its value instead; chains are followed."""

        def final(node: Node) -> Node:
            while node in mapping:
                node = mapping[node]
            return node

        for node in self.nodes:
            node.inputs = tuple(final(value) for value in node.inputs)
        self.output = final(self.logits)

    def sort(self) -> None:
        """Bring the nodes back into topological order, drop those that nothing reads; stable."""
        order: list[Node] = []
        seen: set[Node] = set()
        alive = reachable([self.logits])
        for root in [node for node in self.nodes if node in alive]:
            stack: list[tuple[Node, int]] = [(root, 0)]
            while stack:
                node, index = stack.pop()
                if node in seen:
                    continue
                if index < len(node.inputs):
                    stack.append((node, index + 1))
                    stack.append((node.inputs[index], 0))
                else:
                    seen.add(node)
                    order.append(node)
        self.nodes = order

    def verify(self) -> None:
        """Raise InternalError where the graph breaks a rule of this file."""
        seen: set[Node] = set()
        for node in self.nodes:
            if node.op not in ALL_OPS:
                raise InternalError(f"{node.name}: unknown op {node.op}")
            for value in node.inputs:
                if value not in seen:
                    raise InternalError(f"{node.name} reads {value.name}, which comes later or not at all")
            _verify_domain(node)
            _verify_shape(node)
            seen.add(node)
        if self.logits not in seen:
            raise InternalError("the output is not in the graph")

    def dump(self) -> str:
        """One line a node, to be read by a person."""
        return "".join(f"{describe(node)}\n" for node in self.nodes) + f"return {self.output}\n"


def reachable(roots: Iterable[Node]) -> set[Node]:
    """The roots and everything they depend on."""
    seen: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.inputs)
    return seen


def describe(node: Node) -> str:
    """`%name : token[9, 64] float32 = op(inputs, attr=value)  # origin`."""
    arguments = [value.name for value in node.inputs]
    arguments += [f"{key}={_short(value)}" for key, value in node.attrs.items()]
    where = f"  # {node.origin}" if node.origin else ""
    shape = ", ".join(map(str, node.shape))
    return f"%{node.name} : {node.domain}[{shape}] {node.dtype} = {node.op}({', '.join(arguments)}){where}"


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"array{list(shape)}"


def _verify_domain(node: Node) -> None:
    domains: set[Domain] = {value.domain for value in node.inputs} - {"const"}
    expected: set[Domain]
    if node.op == "select_rows":
        expected = {"token"}
    elif node.op in LEAVES:
        return
    elif node.op == "iota":
        expected = set()
    else:
        expected = {node.domain} - {"const"}
    if domains != expected and not (node.is_anchor and not domains):
        raise InternalError(f"{node.name} is of the {node.domain} domain and reads {sorted(domains)}")


def _verify_shape(node: Node) -> None:
    shapes = [value.shape for value in node.inputs]
    match node.op:
        case op if op in POINTWISE:
            ok = all(shape in (node.shape, ()) for shape in shapes)
        case "reshape":
            ok = prod(shapes[0]) == node.size
        case "permute":
            ok = node.shape == tuple(shapes[0][axis] for axis in node.attrs["axes"])
        case "slice":
            axis, (start, stop, step) = node.attrs["axis"], node.attrs["range"]
            ok = 0 <= start < stop <= shapes[0][axis] and node.shape[axis] == -(-(stop - start) // step)
        case "cat":
            ok = node.shape[node.attrs["axis"]] == sum(shape[node.attrs["axis"]] for shape in shapes)
        case "expand":
            pairs = zip(shapes[0], node.shape, strict=True)
            ok = all(a in (1, b) for a, b in pairs)
        case "linear":
            ok = node.shape[-1] == shapes[1][0] and shapes[0][-1] == shapes[1][1]
        case "causal_conv":
            ok = node.shape == shapes[0] == shapes[1][1:]
        case "running_max":
            ok = shapes == [node.shape, node.shape]
        case "linear_recurrence":
            ok = _is_recurrence(node, shapes)
        case "grouped_linear":
            ok = node.shape == (shapes[1][0], shapes[2][1]) and shapes[0][-1] == shapes[2][2]
        case _:
            ok = True
    if not ok:
        raise InternalError(f"shapes of {describe(node)} do not fit {shapes}")


def _is_recurrence(node: Node, shapes: list[Shape]) -> bool:
    """q, k [G, K], v [H, V], decay [H, 1 or K, 1 or V], then rate [H, K, V] and beta [H] as the attrs say."""
    (groups, key_dim), (heads, value_dim) = shapes[0], node.shape
    more = [(heads, key_dim, value_dim)] * node.attrs["has_rate"] + [(heads,)] * node.attrs["is_delta"]
    rows, columns = shapes[3][1:]
    return (
        shapes[1:3] == [shapes[0], node.shape]
        and heads % groups == 0
        and shapes[3][0] == heads
        and (rows, columns) in ((1, 1), (key_dim, 1), (1, value_dim))
        and shapes[4:] == more
        and (not node.attrs["has_rate"] or columns == value_dim)
    )
