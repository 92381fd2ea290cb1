"""What an attention lets each token see, proven from the trace.

A traced mask is a small program over positions. It is run here on the CPU for a concrete number of tokens,
and its result compared, entry by entry, with the forms that the kernels know: all tokens before (causal), the
last few of them (a window), those of the same stretch (chunks), each with or without ALiBi's slopes. Whatever
is none of these is refused; nothing is assumed from a config.
"""

import contextlib
import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node as FxNode
from torch.fx.node import map_aggregate

from pagedc.compiler.mask_forms import (
    HIDDEN,
    Mask,
    MaskError,
    Scores,
    TooManyTokensError,
    bias_of,
    form_of,
    scores_of,
    solve,
)

NUM_TOKENS = 67  # of a run, unless the mask holds a larger number
MAX_TOKENS = 2100  # a run takes memory by their square
# Numbers above MAX_TOKENS, a window's for one, are replaced by start + step · i of these in turn; the form
# must follow them.
STAND_INS = ((23, 14), (37, 6))
SHAPE_ONLY = {"zeros_like": 0, "ones_like": 1, "new_zeros": 0, "new_ones": 1, "empty_like": 0, "new_empty": 0}
NO_NUMBER = 1 << 30  # and above: the end of a slice, not a size


class MaskReader:
    """Runs the parts of an exported program that depend on nothing but positions."""

    def __init__(self, program: ExportedProgram, buffers: Mapping[str, torch.Tensor]) -> None:
        self.program = program
        self.buffers = buffers
        self.kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self.static: set[FxNode] = set()
        for node in program.graph.nodes:
            if self._is_static(node):
                self.static.add(node)
        self._known: dict[tuple[FxNode, ...], Any] = {}

    def read_mask(self, node: FxNode) -> Mask:
        """The form of an additive, or boolean, mask [.., T, T]. Raises MaskError."""
        if node not in self.static:
            raise MaskError("a mask that depends on more than positions")
        if (node,) not in self._known:
            self._known[node,] = self._follow([node], lambda run: form_of(bias_of(run.value(node))))
        found: Mask = self._known[node,]
        return found

    def read_scores(self, product: FxNode, scores: FxNode) -> Scores:
        """What stands between q·k and the softmax, both [.., T, T]. Raises MaskError."""

        def probe(run: "_Run") -> Scores:
            def at(value: float) -> torch.Tensor:
                shape = run.shape(product.meta["val"])
                return bias_of(run.value(scores, {product: torch.full(shape, value)}))

            return scores_of(at)

        found: Scores = self._follow(self._between(product, scores), probe)
        return found

    def read_bias(self, base: FxNode, mask: FxNode) -> tuple[Mask, list[int]]:
        """What a mask [.., H, T, T] adds to pairs [.., G, T, T], and to which of G each head belongs."""

        def probe(run: "_Run") -> tuple[Mask, list[int]]:
            shape = run.shape(base.meta["val"])
            groups = torch.arange(1.0, shape[-3] + 1)[:, None, None]

            def at(value: float) -> torch.Tensor:
                return bias_of(run.value(mask, {base: (groups * value).expand(shape)}))

            zero = at(0.0)
            seen = zero > HIDDEN
            rises = [torch.where(seen, at(value) - zero, 0.0) / value for value in (1.0, -3.0)]
            heads = rises[0].amax((1, 2), keepdim=True)
            if not all(torch.equal(rise, torch.where(seen, heads, 0.0)) for rise in rises):
                raise MaskError("a mask that changes with more than positions and a number of each key")
            return form_of(zero), [int(head) - 1 for head in heads.flatten()]

        found: tuple[Mask, list[int]] = self._follow(self._between(base, mask), probe)
        return found

    def number(self, node: FxNode) -> float | None:
        """What a static tensor of one element holds; None of others, and where the trace holds none."""
        with contextlib.suppress(MaskError):
            value = _Run(self, NUM_TOKENS, {}).value(node)
            return float(value) if value.numel() == 1 else None
        return None

    def check_distances(self, index: FxNode, hidden: FxNode, extent: int) -> None:
        """Raise MaskError unless an index [.., T, T] is the distance to a key, hidden from `extent` on."""
        if not {index, hidden} <= self.static or extent > MAX_TOKENS:
            raise MaskError("a bias by more than the distance to a key")
        run = _Run(self, extent + 5, {})
        position = torch.arange(run.tokens)
        distance = position[:, None] - position
        seen = distance >= 0
        near = seen & (distance < extent)
        found, far = _once(run.value(index))[..., near], _once(run.value(hidden)) & seen
        if (found != distance[near]).any() or (far != seen & ~near).any():
            raise MaskError("a bias by more than the distance to a key")

    def _between(self, product: FxNode, scores: FxNode) -> list[FxNode]:
        """The nodes that the run needs; those that are not static depend on the product alone."""
        found: dict[FxNode, None] = {}
        stack = [scores]
        while stack:
            node = stack.pop()
            if node in found or node is product or node in self.static:
                if node is not product:
                    found[node] = None
                continue
            if node.op != "call_function":
                raise MaskError("scores that depend on more than q, k and positions")
            found[node] = None
            stack.extend(node.all_input_nodes)
        return list(found)

    def _follow(self, roots: list[FxNode], find: Callable[["_Run"], Any]) -> Any:
        """Run once, or where a number is too large twice with others in its place, and solve for it."""
        numbers = sorted(self._numbers(roots))
        large = [n for n in numbers if n > MAX_TOKENS]
        small = [n for n in numbers if n <= MAX_TOKENS]
        tables = self._square_buffers(roots)
        if tables and min(tables) > MAX_TOKENS:
            raise MaskError(f"a mask kept as a table of {min(tables)} × {min(tables)}")
        # More tokens than any number of the mask, or as many as its tables hold.
        sizes = [NUM_TOKENS, *small, *(n + 5 for n in small)]
        failure = MaskError("a mask of no tokens")
        for tokens in sorted({min([size, *tables]) for size in sizes}, reverse=True):
            try:
                if not large:
                    return find(_Run(self, tokens, {}))
                stand_ins = [{n: start + step * i for i, n in enumerate(large)} for start, step in STAND_INS]
                first, second = (find(_Run(self, tokens, replaced)) for replaced in stand_ins)
                return solve(first, second, large, stand_ins)
            except TooManyTokensError as error:
                failure = error
        raise failure

    def _ancestors(self, roots: list[FxNode]) -> set[FxNode]:
        seen: set[FxNode] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node in seen or is_symbolic(node):
                continue
            seen.add(node)
            stack.extend(node.all_input_nodes)
        return seen

    def _numbers(self, roots: list[FxNode]) -> set[int]:
        numbers: set[int] = set()

        def note(argument: Any) -> Any:
            if type(argument) is int and 2 < abs(argument) < NO_NUMBER:
                numbers.add(abs(argument))
            return argument

        for node in self._ancestors(roots):
            if node.op == "call_function":
                map_aggregate((node.args, node.kwargs), note)
        return numbers

    def _square_buffers(self, roots: list[FxNode]) -> list[int]:
        shapes = [n.meta["val"].shape for n in self._ancestors(roots) if n.op == "placeholder"]
        return [s[-1] for s in shapes if len(s) > 1 and isinstance(s[-1], int) and s[-1] == s[-2]]

    def _is_static(self, node: FxNode) -> bool:
        if node.op == "placeholder":
            spec = self.kinds[node.name]
            target = str(spec.target).removeprefix("model.")
            return spec.kind == InputKind.CONSTANT_TENSOR or (
                spec.kind != InputKind.USER_INPUT and target in self.buffers
            )
        if node.op == "get_attr" or is_symbolic(node):
            return True
        if node.op != "call_function":
            return False
        return _name(node) in SHAPE_ONLY or all(source in self.static for source in node.all_input_nodes)

    def leaf(self, node: FxNode) -> Any:
        """The value of what the run does not compute."""
        if node.op == "get_attr":
            value = getattr(self.program.graph_module, str(node.target))
        else:
            spec = self.kinds[node.name]
            target = str(spec.target)
            value = self.buffers.get(target.removeprefix("model."), self.program.constants.get(target))
        if not isinstance(value, torch.Tensor) or value.is_meta:
            raise MaskError("a mask made of a constant that the trace does not hold")
        return value


class _Run:
    """One evaluation, of a number of tokens and with some numbers replaced."""

    def __init__(self, reader: MaskReader, tokens: int, replaced: dict[int, int]) -> None:
        self.reader = reader
        self.tokens = tokens
        self.replaced = replaced
        self.values: dict[FxNode, Any] = {}

    def value(self, root: FxNode, bound: Mapping[FxNode, torch.Tensor] | None = None) -> Any:
        """The value of a node; what depends on `bound` is computed anew."""
        values = dict(bound or {})
        stack = [root]
        while stack:
            node = stack[-1]
            if node in values or node in self.values:
                stack.pop()
                continue
            missing = (
                [] if self._is_leaf(node) else [n for n in node.all_input_nodes if not self._has(n, values)]
            )
            if missing:
                stack.extend(missing)
                continue
            result = self._apply(node, values)
            (self.values if node in self.reader.static else values)[node] = result
            stack.pop()
        return values[root] if root in values else self.values[root]

    def _has(self, node: FxNode, values: Mapping[FxNode, Any]) -> bool:
        return node in values or node in self.values

    def _is_leaf(self, node: FxNode) -> bool:
        return node.op != "call_function" or is_symbolic(node) or _name(node) in SHAPE_ONLY

    def _apply(self, node: FxNode, values: Mapping[FxNode, Any]) -> Any:
        if is_symbolic(node):
            return self._size(node.meta["val"])
        if _name(node) in SHAPE_ONLY and node.all_input_nodes:
            fake = node.meta["val"]
            return torch.full(self.shape(fake), SHAPE_ONLY[_name(node)], dtype=fake.dtype)
        if node.op != "call_function":
            return self.reader.leaf(node)
        known = {source: values.get(source, self.values.get(source)) for source in node.all_input_nodes}
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
        args, kwargs = cast(tuple[Any, Any], map_aggregate((args, kwargs), self._argument))
        if node.target is not operator.getitem and _name(node).endswith("_"):
            args = (args[0].clone(), *args[1:])  # an op in place: others may read its operand
        try:
            with torch.no_grad():
                return node.target(*args, **kwargs)  # type: ignore[operator]
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise TooManyTokensError(f"a mask that cannot be followed through {_name(node)}") from error

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, torch.device):
            return torch.device("cpu")
        if type(argument) is int and abs(argument) in self.replaced:
            return self.replaced[abs(argument)] * (1 if argument > 0 else -1)
        return argument

    def shape(self, fake: torch.Tensor) -> tuple[int, ...]:
        """The shape of a traced tensor in this run."""
        return tuple(int(self._size(size)) for size in fake.shape)

    def _size(self, size: Any) -> Any:
        if not hasattr(size, "node"):
            return size
        expression = size.node.expr
        value = expression.subs(dict.fromkeys(expression.free_symbols, self.tokens))
        return bool(value) if isinstance(size, torch.SymBool) else int(value)


def _once(value: torch.Tensor) -> torch.Tensor:
    """What an expansion repeats, one time."""
    return value[tuple(slice(1 if stride == 0 else None) for stride in value.stride()[:-2])]


def is_symbolic(node: FxNode) -> bool:
    """Whether a traced value is a number, known or in terms of T."""
    value = node.meta.get("val")
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool)


def _name(node: FxNode) -> str:
    target = node.target
    return target._schema.name.split("::")[1] if isinstance(target, torch._ops.OpOverload) else str(target)
