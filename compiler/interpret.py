"""The meaning of the graph, in numpy: slow, obvious, and the judge of every pass and target.

Constants are folded with it, and tests run whole graphs through it.
"""

from collections.abc import Callable, Iterator, Mapping
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedc.compiler.graph import Graph, Node
from pagedc.kernels.reference.causal_conv import causal_conv
from pagedc.kernels.reference.linear_recurrence import linear_recurrence
from pagedc.kernels.reference.running_max import running_max

Array = NDArray[Any]
NUMPY_TYPES: dict[str, Any] = {
    "float32": np.float32,
    "bfloat16": np.float32,
    "int32": np.int32,
    "bool": np.bool_,
}

_ERF = np.vectorize(erf, otypes=[np.float32])

UNARY: dict[str, Callable[[Array], Array]] = {
    "neg": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "erf": lambda x: _ERF(x) if x.size else x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "reciprocal": lambda x: 1 / x,
    "floor": np.floor,
    "not": np.logical_not,
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "floordiv": np.floor_divide,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
}
REDUCE: dict[str, np.ufunc] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def evaluate(node: Node, parameters: Callable[[str], Array]) -> Array:
    """The value of a node of the const domain; `parameters` gives a parameter by name."""
    value: Array = _Interpreter(parameters, {}, 1).value(node)[0]
    return value


def run(
    graph: Graph, parameters: Callable[[str], Array], token_ids: Array, rows: Array | None = None
) -> Array:
    """Logits [T, vocab_size] (or of `rows`) of one sequence of T tokens that starts at position 0."""
    tokens = len(token_ids)
    inputs = {"token_ids": token_ids, "positions": np.arange(tokens)}
    rows = np.arange(tokens) if rows is None else rows
    return _Interpreter(parameters, inputs, tokens, rows).value(graph.logits)


def walk(graph: Graph, parameters: Callable[[str], Array], token_ids: Array) -> Iterator[tuple[Node, Array]]:
    """Every value that depends on tokens, in order; dropped once nothing reads it, as constants are."""
    tokens = len(token_ids)
    inputs = {"token_ids": token_ids, "positions": np.arange(tokens)}
    interpreter = _Interpreter(parameters, inputs, tokens, np.arange(tokens))
    unread = {node: len(users) for node, users in graph.users().items()}
    for node in graph.nodes:
        if node.domain == "const":
            continue  # computed where it is read
        yield node, interpreter.value(node)
        read = list(dict.fromkeys(node.inputs))
        while read:
            value = read.pop()
            unread[value] -= 1
            if not unread[value]:
                del interpreter.values[value]
                read += dict.fromkeys(value.inputs) if value.domain == "const" else ()


class _Interpreter:
    """Arrays carry a leading axis: the tokens, the rows, or 1 for constants."""

    def __init__(
        self,
        parameters: Callable[[str], Array],
        inputs: Mapping[str, Array],
        tokens: int,
        rows: Array | None = None,
    ) -> None:
        self.parameters = parameters
        self.inputs = inputs
        self.tokens = tokens
        self.rows = rows
        self.values: dict[Node, Array] = {}

    def value(self, root: Node) -> Array:
        """The value of a node, computing what it needs."""
        stack = [root]
        while stack:
            node = stack[-1]
            missing = [value for value in node.inputs if value not in self.values]
            if node in self.values:
                stack.pop()
            elif missing:
                stack.extend(missing)
            else:
                with np.errstate(all="ignore"):
                    result = self._apply(node, [self.values[value] for value in node.inputs])
                if node.dtype == "bfloat16":
                    result = round_bfloat16(result)
                self.values[node] = np.asarray(result, NUMPY_TYPES[node.dtype])
                stack.pop()
        return self.values[root]

    def _apply(self, node: Node, args: list[Array]) -> Any:
        attrs = node.attrs
        match node.op:
            case "input":
                return self.inputs[attrs["name"]].reshape(self.tokens, 1)
            case "scalar" | "constant":
                return np.asarray(attrs["value"])[None]
            case "parameter":
                return self.parameters(attrs["name"])[None]
            case "select_rows":
                return args[0][self.rows]
            case "cast":
                return (
                    round_bfloat16(args[0])
                    if node.dtype == "bfloat16"
                    else args[0].astype(NUMPY_TYPES[node.dtype])
                )
            case op if op in UNARY:
                return UNARY[op](args[0])
            case op if op in BINARY:
                return BINARY[op](*_aligned(args))
            case "where":
                return np.where(*_aligned(args))
            case "sum" | "max" | "min":
                axes = tuple(axis + 1 for axis in attrs["axes"])
                return REDUCE[node.op].reduce(args[0], axis=axes, keepdims=True)
            case "cumsum":
                return np.cumsum(args[0], axis=attrs["axes"][0] + 1)
            case "reshape":
                return args[0].reshape(len(args[0]), *node.shape)
            case "permute":
                return args[0].transpose(0, *[axis + 1 for axis in attrs["axes"]])
            case "slice":
                start, stop, step = attrs["range"]
                return args[0][(slice(None),) * (attrs["axis"] + 1) + (slice(start, stop, step),)]
            case "cat":
                longest = max(len(arg) for arg in args)
                wide = [np.broadcast_to(arg, (longest, *arg.shape[1:])) for arg in args]
                return np.concatenate(wide, axis=attrs["axis"] + 1)
            case "expand":
                return np.broadcast_to(
                    args[0].reshape(len(args[0]), *node.inputs[0].shape), (len(args[0]), *node.shape)
                )
            case "gather":
                source = np.broadcast_to(args[0], (len(args[1]), *args[0].shape[1:]))
                return np.take_along_axis(source, args[1].astype(np.int64), attrs["axis"] + 1)
            case "topk_index":
                return np.argsort(-args[0], axis=-1, kind="stable")[..., : attrs["k"]]
            case "embedding":
                return args[1][0][args[0]].reshape(len(args[0]), *node.shape)
            case "linear":
                return args[0] @ args[1][0].T
            case "grouped_linear":
                x = args[0] if args[0].ndim == 3 else args[0][:, None]
                return np.einsum(
                    "tsk,tsnk->tsn", np.broadcast_to(x, (*args[1].shape, x.shape[-1])), args[2][0][args[1]]
                )
            case "attention":
                return causal_attention(args, attrs)
            case "causal_conv":
                x, weight = args[0], args[1][0]
                return causal_conv(x, weight, np.zeros((len(weight) - 1, x.shape[1])))[0]
            case "running_max":
                fade, x = (np.broadcast_to(arg, (self.tokens, *node.shape)) for arg in args)
                return running_max(fade, x, np.full(node.shape, attrs["initial"]))
            case "linear_recurrence":
                return self._recurrence(args, attrs["has_rate"], attrs["is_delta"])
        raise NotImplementedError(node.op)

    def _recurrence(self, args: list[Array], has_rate: bool, is_delta: bool) -> Array:
        q, k, v, decay = (np.broadcast_to(arg, (self.tokens, *arg.shape[1:])) for arg in args[:4])
        rate = args[4][0] if has_rate else None
        beta = args[-1] if is_delta else None
        zeros = np.zeros((v.shape[1], k.shape[2], v.shape[2]))
        return linear_recurrence(q, k, v, decay, zeros, rate, beta)[0]


def causal_attention(args: list[Array], attrs: Mapping[str, Any]) -> Array:
    """q [T, H, D], k [T, Hkv, D], v [T, Hkv, Dv] (, sinks [1, H]) (, slopes [1, H]) → [T, H, Dv].

    Where distances have biases, the last two are x [T, H, R] and profiles [1, R, extent].
    """
    if extent := attrs.get("extent", 0):
        *args, x, profiles = args
    q, k, v = args[:3]
    window, chunk, softcap = attrs["window"], attrs["chunk"], attrs["softcap"]
    group = q.shape[1] // k.shape[1]
    scores = np.einsum("thd,shd->hts", q, np.repeat(k, group, 1)) * np.float32(attrs["scale"])
    if softcap:
        scores = np.tanh(scores / softcap) * softcap
    position = np.arange(len(q))
    distance = position[:, None] - position[None]
    if extent:
        near = np.clip(distance, 0, extent - 1)
        biases = np.take_along_axis((x @ profiles[0]).swapaxes(0, 1), near[None], 2)
        scores += np.where(distance < extent, biases, 0.0) * np.float32(attrs["scale"])
    if attrs["slopes"]:
        scores -= args[-1].reshape(-1, 1, 1) * distance
    scores[:, (distance < 0) | (distance >= (window or len(q)))] = -np.inf
    if chunk:
        scores[:, position[:, None] // chunk != position[None] // chunk] = -np.inf
    if attrs["sinks"]:
        scores = np.concatenate(
            [scores, np.broadcast_to(args[3].reshape(-1, 1, 1), (*scores.shape[:2], 1))], -1
        )
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out: Array = np.einsum("hts,shd->thd", weights[..., : len(q)], np.repeat(v, group, 1))
    return out


def round_bfloat16(x: Array) -> Array:
    """The nearest bfloat16, ties to even, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _aligned(args: list[Array]) -> list[Array]:
    """Numbers get as many axes as the others have."""
    rank = max(arg.ndim for arg in args)
    return [arg.reshape(arg.shape[0], *(1,) * (rank - arg.ndim), *arg.shape[1:]) for arg in args]
