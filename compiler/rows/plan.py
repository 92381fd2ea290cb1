"""Plan the loops of a row kernel.

Every node of the kernel is either stored or written out where it is read. Index maps never move data: they
compose into the indexes of what is stored. Where an index is not affine (a join, a reshape across a loop),
the loop is split, in two nested ones or in ranges, until it is.
"""

from math import prod

from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import INDEX, POINTWISE, REDUCE, Node
from pagedc.compiler.rows.affine import Affine, NotAffineError, SplitVarError, Var, flatten, unflatten
from pagedc.compiler.rows.kernel import Box, Expr, RowKernel, Stage

Index = tuple[Affine, ...]

COSTS = {
    "exp": 12,
    "log": 12,
    "log1p": 14,
    "tanh": 16,
    "erf": 16,
    "sigmoid": 14,
    "sin": 30,
    "cos": 30,
    "pow": 40,
    "mod": 8,
}
COSTS |= {"sqrt": 6, "rsqrt": 8, "div": 4, "reciprocal": 4, "floordiv": 8}
WORTH_STORING = 2  # a value that costs more than this is computed once


class _StoreFirstError(Exception):
    """A value must be stored for the plan to work."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.name)
        self.node = node


def build_kernel(nodes: list[Node], outputs: list[Node]) -> RowKernel:
    """Plan the loops for `nodes` (row ops in topological order), storing `outputs`."""
    stored = set(outputs) | {node for node in nodes if node.op in REDUCE or node.op == "topk_index"}
    while True:
        planner = _Planner(nodes, stored)
        try:
            stages = [planner.stage(node) for node in nodes if node in stored]
        except _StoreFirstError as request:
            stored.add(request.node)
            if request.node not in nodes:  # an index map: it becomes a copy, right behind what it reads
                nodes = _insert(nodes, request.node)
            continue
        again = planner.repeated() - stored
        if not again:
            break
        # One at a time, the first: what is computed from it may no longer be worth storing.
        stored.add(next(node for node in nodes if node in again))
    return RowKernel(stages, list(planner.inputs), outputs)


def _insert(nodes: list[Node], node: Node) -> list[Node]:
    root = node.inputs[0]
    while root not in nodes and root.op in INDEX - {"cat", "iota"}:
        root = root.inputs[0]
    position = nodes.index(root) + 1 if root in nodes else 0
    return [*nodes[:position], node, *nodes[position:]]


class _Planner:
    def __init__(self, nodes: list[Node], stored: set[Node]) -> None:
        self.inside = set(nodes)
        self.stored = stored
        self.inputs: dict[Node, None] = {}
        self.work: dict[Node, int] = {}  # evaluations of each node that is not stored
        self.costs: dict[Node, int] = {}
        self._memo: dict[tuple[Node, Index], Expr] = {}
        self._iterations = 1
        self._counter = 0

    def stage(self, node: Node) -> Stage:
        """The boxes that fill `node`."""
        stage = Stage(node)
        source = node.inputs[0].shape if node.op in REDUCE else node.shape
        if node.op == "topk_index":
            return self._topk(stage)
        start = tuple(Var(f"i{axis}", size) for axis, size in enumerate(source))
        work = [tuple(Affine.of(var) for var in start)]
        while work:
            index = work.pop(0)
            try:
                stage.boxes.append(self._box(node, index))
            except SplitVarError as split:
                work.insert(0, _substitute(index, split.var, self._split(split.var, split.factor)))
            except _SplitRangeError as cut:
                if node.op == "cumsum":  # its sum runs on from range to range
                    raise _StoreFirstError(node.inputs[0]) from None
                low = Affine.of(Var(cut.var.name, cut.at))
                high = Affine.of(Var(cut.var.name, cut.var.size - cut.at)).shift(cut.at)
                work[:0] = [_substitute(index, cut.var, low), _substitute(index, cut.var, high)]
        return stage

    def repeated(self) -> set[Node]:
        """Nodes computed more often than they have elements, and worth storing."""
        return {
            node
            for node, count in self.work.items()
            if count > node.size and self._cost(node) > WORTH_STORING
        }

    def _topk(self, stage: Stage) -> Stage:
        node = stage.node
        rows = Var("i0", prod(node.shape[:-1]))
        source = self._stored_source(node.inputs[0])
        load = self._load(source, Affine.of(rows) * node.inputs[0].shape[-1])
        stage.boxes.append(Box((rows,), (), load, Affine.of(rows) * node.shape[-1]))
        return stage

    def _stored_source(self, node: Node) -> Node:
        """The stored value that `node` is, perhaps reshaped, for ops that pick at computed positions."""
        while node.op == "reshape" and node not in self.stored:
            node = node.inputs[0]
        if not self._lies_flat(node):
            raise _StoreFirstError(node)
        return node

    def _split(self, var: Var, factor: int) -> Affine:
        self._counter += 1
        outer, inner = (
            Var(f"{var.name}o{self._counter}", var.size // factor),
            Var(f"{var.name}i{self._counter}", factor),
        )
        return Affine.of(outer) * factor + Affine.of(inner)

    def _box(self, node: Node, index: Index) -> Box:
        self._memo = {}
        self._iterations = prod(var.size for var in _variables(index))
        work = dict(self.work)
        try:
            if node.op in REDUCE:
                axes = node.attrs["axes"]
                expr = self.expr(node.inputs[0], index)
                kept = tuple(Affine() if axis in axes else part for axis, part in enumerate(index))
                reduced = _variables(tuple(index[axis] for axis in axes))
                target = index if node.op == "cumsum" else kept
                return Box(_variables(kept), reduced, expr, flatten(target, node.shape))
            expr = self._compute(node, index)
            return Box(_variables(index), (), expr, flatten(index, node.shape))
        except (SplitVarError, _SplitRangeError):
            self.work = work
            raise

    def expr(self, node: Node, index: Index) -> Expr:
        """The value of `node` at `index`."""
        key = (node, index)
        if key not in self._memo:
            self._memo[key] = self._expr(node, index)
        return self._memo[key]

    def _expr(self, node: Node, index: Index) -> Expr:
        if node.op == "scalar":
            return Expr("number", dtype=node.dtype, number=node.attrs["value"])
        if node in self.stored or (
            node not in self.inside and (node.domain != "const" or node.op in ("parameter", "constant"))
        ):
            if node.op in INDEX - {"cat", "iota"} and node not in self.stored:
                return self._compute(node, index)  # an index map of a value that lives outside
            return self._load(node, flatten(index, node.shape))
        if node.op not in INDEX:
            self.work[node] = self.work.get(node, 0) + self._iterations
        return self._compute(node, index)

    def _load(self, node: Node, offset: Affine) -> Expr:
        if node not in self.stored:
            self.inputs[node] = None
        return Expr("load", dtype=node.dtype, value=node, offset=offset)

    def _compute(self, node: Node, index: Index) -> Expr:
        if node.op in POINTWISE:
            args = tuple(self.expr(value, index if value.shape else ()) for value in node.inputs)
            return Expr(node.op, args, node.dtype)
        match node.op:
            case "reshape":
                return self._reshape(node, index)
            case "permute":
                source: list[Affine] = [Affine()] * len(index)
                for position, axis in enumerate(node.attrs["axes"]):
                    source[axis] = index[position]
                return self.expr(node.inputs[0], tuple(source))
            case "slice":
                axis, (start, _, step) = node.attrs["axis"], node.attrs["range"]
                moved = (index[axis] * step).shift(start)
                return self.expr(node.inputs[0], (*index[:axis], moved, *index[axis + 1 :]))
            case "expand":
                shape = node.inputs[0].shape
                return self.expr(
                    node.inputs[0],
                    tuple(Affine() if size == 1 else part for part, size in zip(index, shape, strict=True)),
                )
            case "cat":
                return self._cat(node, index)
            case "gather":
                return self._gather(node, index)
        raise InternalError(f"{node.name}: no loops for {node.op}")

    def _reshape(self, node: Node, index: Index) -> Expr:
        source = node.inputs[0]
        offset = flatten(index, node.shape)
        # A stored value has one layout, whatever shape it is read in.
        if self._lies_flat(source):
            return self._load(source, offset)
        try:
            return self.expr(source, unflatten(offset, source.shape))
        except NotAffineError:
            root = source
            if root.op == "scalar":
                return self.expr(root, ())
            raise _StoreFirstError(root) from None

    def _lies_flat(self, node: Node) -> bool:
        return node in self.stored or (
            node not in self.inside
            and node.op not in INDEX - {"cat"}
            and (node.domain != "const" or node.op in ("parameter", "constant"))
        )

    def _cat(self, node: Node, index: Index) -> Expr:
        axis = node.attrs["axis"]
        position, start = index[axis], 0
        for part in node.inputs:
            end = start + part.shape[axis]
            if start <= position.low and position.high < end:
                return self.expr(part, (*index[:axis], position.shift(-start), *index[axis + 1 :]))
            if position.low < end <= position.high:
                raise self._cut(node, position, end)
            start = end
        raise InternalError(f"{node.name}: index outside the join")

    def _cut(self, node: Node, position: Affine, at: int) -> Exception:
        """Divide a loop so that `position` stays on one side of `at`."""
        for var, factor in sorted(position.terms, key=lambda term: -term[1]):
            rest = Affine(tuple(term for term in position.terms if term[0] != var), position.constant)
            if (
                factor > 0
                and (at - rest.low) // factor * factor + rest.low == at
                and rest.high - rest.low < factor
            ):
                return _SplitRangeError(var, (at - rest.low) // factor)
        if node not in self.stored:
            return _StoreFirstError(node)
        return InternalError(f"{node.name}: a join whose loops cannot be divided")

    def _gather(self, node: Node, index: Index) -> Expr:
        source, positions = node.inputs
        axis = node.attrs["axis"]
        where = self.expr(positions, index)
        stride = prod(source.shape[axis + 1 :])
        base = flatten((*index[:axis], Affine(), *index[axis + 1 :]), source.shape)
        load = self._load(self._stored_source(source), base)
        return Expr("load", (where,), source.dtype, load.value, load.offset, stride)

    def _cost(self, node: Node) -> int:
        if node not in self.costs:
            own = 0 if node.op in INDEX or node.op == "cast" else COSTS.get(node.op, 1)
            parts = (value for value in node.inputs if value in self.inside and value not in self.stored)
            self.costs[node] = own + sum(self._cost(value) for value in parts)
        return self.costs[node]


class _SplitRangeError(Exception):
    """A loop must be divided at `at`."""

    def __init__(self, var: Var, at: int) -> None:
        super().__init__(f"{var.name} at {at}")
        self.var = var
        self.at = at


def _variables(index: Index) -> tuple[Var, ...]:
    """Loop variables, outermost first: by their stride in the index."""
    found: dict[Var, None] = {}
    for part in index:
        for var, _ in sorted(part.terms, key=lambda term: -abs(term[1])):
            found[var] = None
    return tuple(found)


def _substitute(index: Index, var: Var, value: Affine) -> Index:
    return tuple(part.substitute(var, value) for part in index)
