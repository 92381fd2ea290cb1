"""Random graphs of row ops, small enough to be read when one of them fails."""

import random
from math import prod

import numpy as np

from pagedc.compiler.graph import DType, Graph, Node, Shape

MAX_SIZE = 60  # elements of a value
SMOOTH = ("neg", "abs", "tanh", "sigmoid", "sin", "cos", "erf", "exp", "log1p", "sqrt", "rsqrt", "reciprocal")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


class RandomRows:
    """Builds a graph op by op. Its leaves are the rows of tables, which `tables` holds by name."""

    def __init__(self, seed: int, num_ops: int) -> None:
        self.rng = random.Random(seed)
        self.graph = Graph()
        self.tables: dict[str, np.ndarray] = {}
        self.exact: set[Node] = set()  # known to the last bit, so that comparing them is safe
        self.ids = self.add("input", (), (1,), "int32", name="token_ids")
        self.positions = self.add("input", (), (1,), "int32", name="positions")
        for shape in ((12,), (3, 4), (2, 2, 6)):
            self.leaf(shape)
        while num_ops:
            num_ops -= self.step()
        self.graph.output = self.graph.nodes[-1]

    def add(
        self, op: str, inputs: tuple[Node, ...], shape: Shape, dtype: DType = "float32", **attrs: object
    ) -> Node:
        domain = "const" if op in ("scalar", "constant", "parameter") else "token"
        return self.graph.add(Node(op, inputs, shape, dtype, domain, dict(attrs)))  # type: ignore[arg-type]

    def leaf(self, shape: Shape) -> None:
        name = f"table_{len(self.tables)}"
        values = np.random.default_rng(self.rng.getrandbits(32)).uniform(-2, 2, (8, prod(shape)))
        self.tables[name] = values.astype(np.float32)
        table = self.add("parameter", (), values.shape, name=name)
        self.exact.add(self.add("embedding", (self.ids, table), shape))

    def scalar(self, value: float, dtype: DType = "float32") -> Node:
        return self.add("scalar", (), (), dtype, value=value)

    def pick(self, dtype: DType = "float32", exact: bool = False) -> Node | None:
        values = [
            node for node in self.graph.nodes if node.domain == "token" and node.dtype == dtype and node.shape
        ]
        values = [node for node in values if not exact or node in self.exact]
        return self.rng.choice(values[-8:] if self.rng.random() < 0.7 else values) if values else None

    def alike(self, node: Node, exact: bool = False) -> Node:
        """Another value of the same shape, brought to it where needed, or a number."""
        candidates = [
            other
            for other in self.graph.nodes
            if other.domain == "token" and other.dtype == node.dtype and other.size == node.size
            if not exact or other in self.exact
        ]
        other = self.rng.choice(candidates)
        if self.rng.random() < 0.2:
            return self.scalar(
                self.rng.choice([0.5, -1.25, 2.0]) if node.dtype == "float32" else self.rng.randint(0, 3),
                node.dtype,
            )
        return other if other.shape == node.shape else self.moved("reshape", other, node.shape)

    def moved(self, op: str, node: Node, shape: Shape, **attrs: object) -> Node:
        """An index map: exact where its source is."""
        result = self.add(op, (node,), shape, node.dtype, **attrs)
        if node in self.exact:
            self.exact.add(result)
        return result

    def step(self) -> bool:
        """Add an op; False where what it needs was not there."""
        choices = [
            self.smooth,
            self.arithmetic,
            self.choose,
            self.reduce,
            self.topk,
            self.gather,
            self.integer,
        ]
        choices += [self.reshape, self.permute, self.slice, self.expand, self.cat] * 2
        return self.rng.choice(choices)()

    def smooth(self) -> bool:
        x, op = self.pick(), self.rng.choice(SMOOTH)
        if x is None:
            return False
        if op in ("exp", "sin", "cos"):  # of large arguments these lose digits, wherever they are computed
            x = self.add("tanh", (x,), x.shape)
        elif op in ("log1p", "sqrt", "rsqrt", "reciprocal"):
            x = self.add("abs", (x,), x.shape)
            x = self.add("add", (x, self.scalar(0.5)), x.shape)
        self.add(op, (x,), x.shape)
        return True

    def arithmetic(self) -> bool:
        x = self.pick()
        if x is None:
            return False
        y = self.alike(x)
        op = self.rng.choice(["add", "sub", "mul", "maximum", "minimum", "div"])
        if op == "div":
            y = self.add("sigmoid", (y,), y.shape) if y.shape else self.scalar(3.0)
        result = self.add(op, (x, y), x.shape)
        if op != "mul" and x in self.exact and (y in self.exact or not y.shape) and op != "div":
            self.exact.add(result)
        elif op == "mul":
            self.add("tanh", (result,), x.shape)  # products of products would leave float32's range
        return True

    def choose(self) -> bool:
        x = self.pick(exact=True)
        if x is None:
            return False
        condition = self.add(self.rng.choice(COMPARISONS), (x, self.alike(x, exact=True)), x.shape, "bool")
        if self.rng.random() < 0.3:
            condition = self.add("not", (condition,), x.shape, "bool")
        self.add("where", (condition, self.alike(x), self.alike(x)), x.shape)
        return True

    def integer(self) -> bool:
        x = self.pick("int32")
        if x is None:
            return False
        op = self.rng.choice(["add", "sub", "mul", "mod", "floordiv", "maximum"])
        y = self.scalar(self.rng.randint(1, 5), "int32")
        x = self.add(
            "mod", (self.add(op, (x, y), x.shape, "int32"), self.scalar(7, "int32")), x.shape, "int32"
        )
        self.exact.add(self.add("cast", (x,), x.shape))
        return True

    def reduce(self) -> bool:
        x = self.pick()
        if x is None:
            return False
        op = self.rng.choice(["sum", "max", "min", "cumsum"])
        axes = tuple(sorted(self.rng.sample(range(len(x.shape)), self.rng.randint(1, len(x.shape)))))
        if op == "cumsum":
            self.add(op, (x,), x.shape, axes=axes[:1])
        else:
            self.add(
                op, (x,), tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)), axes=axes
            )
        return True

    def topk(self) -> bool:
        x = self.pick(exact=True)
        if x is None or x.shape[-1] < 2:
            return False
        k = self.rng.randint(1, x.shape[-1])
        index = self.add("topk_index", (x,), (*x.shape[:-1], k), "int32", k=k)
        self.moved_gather(x, index, len(x.shape) - 1)
        return True

    def gather(self) -> bool:
        index, x = self.pick("int32"), self.pick()
        if index is None or x is None or x.shape[:-1] != index.shape[:-1]:
            return False
        bound = self.scalar(x.shape[-1], "int32")
        self.moved_gather(x, self.add("mod", (index, bound), index.shape, "int32"), len(x.shape) - 1)
        return True

    def moved_gather(self, x: Node, index: Node, axis: int) -> None:
        result = self.add("gather", (x, index), index.shape, x.dtype, axis=axis)
        if x in self.exact:
            self.exact.add(result)

    def reshape(self) -> bool:
        x = self.pick()
        if x is None:
            return False
        rest, shape = x.size, []
        while rest > 1 and len(shape) < 3:
            size = self.rng.choice([d for d in range(1, rest + 1) if rest % d == 0])
            shape.append(size)
            rest //= size
        self.moved("reshape", x, (*shape, rest))
        return True

    def permute(self) -> bool:
        x = self.pick()
        if x is None:
            return False
        axes = self.rng.sample(range(len(x.shape)), len(x.shape))
        self.moved("permute", x, tuple(x.shape[axis] for axis in axes), axes=tuple(axes))
        return True

    def slice(self) -> bool:
        x = self.pick()
        if x is None:
            return False
        axis = self.rng.randrange(len(x.shape))
        start = self.rng.randrange(x.shape[axis])
        stop, step = self.rng.randint(start + 1, x.shape[axis]), self.rng.choice([1, 1, 2])
        shape = (*x.shape[:axis], -(-(stop - start) // step), *x.shape[axis + 1 :])
        self.moved("slice", x, shape, axis=axis, range=(start, stop, step))
        return True

    def expand(self) -> bool:
        x = self.pick()
        if x is None or x.size * 3 > MAX_SIZE or len(x.shape) > 3:
            return False
        axis, times = self.rng.randrange(len(x.shape) + 1), self.rng.randint(2, 3)
        x = self.moved("reshape", x, (*x.shape[:axis], 1, *x.shape[axis:]))
        self.moved("expand", x, (*x.shape[:axis], times, *x.shape[axis + 1 :]))
        return True

    def cat(self) -> bool:
        x = self.pick()
        if x is None:
            return False
        axis = self.rng.randrange(len(x.shape))
        others = [self.alike(x) for _ in range(self.rng.randint(1, 2))]
        parts = tuple(part for part in (x, *others) if part.shape)
        shape = (*x.shape[:axis], len(parts) * x.shape[axis], *x.shape[axis + 1 :])
        if prod(shape) > MAX_SIZE:
            return False
        result = self.add("cat", parts, shape, axis=axis)
        if self.exact.issuperset(parts):
            self.exact.add(result)
        return True
