"""Each op of the graph as operators of ONNX; values of tokens and rows have one axis more, in front."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import Node

Array = NDArray[Any]
ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "bfloat16": TensorProto.FLOAT,  # rounded to bfloat16, held as float
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}
SAME = {
    "neg": "Neg",
    "abs": "Abs",
    "exp": "Exp",
    "log": "Log",
    "sin": "Sin",
    "cos": "Cos",
    "tanh": "Tanh",
    "erf": "Erf",
    "sqrt": "Sqrt",
    "sigmoid": "Sigmoid",
    "reciprocal": "Reciprocal",
    "floor": "Floor",
    "not": "Not",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "and": "And",
    "or": "Or",
    "where": "Where",
}
REDUCE = {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}


class OpWriter:
    """Collects ONNX nodes and constants; `names` says what each of our nodes is called."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: dict[Node, str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator; returns the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Array) -> str:
        """A constant tensor."""
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def number(self, value: np.float32 | np.int64) -> str:
        """A constant without axes."""
        return self.constant(np.asarray(value))

    def integers(self, values: list[int]) -> str:
        """A constant list of int64, as shapes and axes are given."""
        return self.constant(np.array(values, np.int64))

    def rounded(self, value: str) -> str:
        """Through bfloat16 and back."""
        return self.op("Cast", self.op("Cast", value, to=TensorProto.BFLOAT16), to=TensorProto.FLOAT)

    def wide(self, node: Node, like: Node) -> str:
        """A constant repeated for each token of `like`; any other value as it is."""
        if node.domain != "const":
            return self.names[node]
        count = self.op("Shape", self.names[like], start=0, end=1)
        shape = self.op("Concat", count, self.integers(list(node.shape)), axis=0)
        return self.op("Expand", self.names[node], shape)


def lead(node: Node) -> int:
    """Axes in front of a value's own."""
    return int(node.domain != "const")


def _aligned(writer: OpWriter, node: Node) -> list[str]:
    """The operands of a pointwise op; a number per token gets as many axes as the others have."""
    return [
        writer.op("Reshape", writer.names[value], writer.integers([-1] + [1] * len(node.shape)))
        if value.domain != "const" and len(value.shape) < len(node.shape)
        else writer.names[value]
        for value in node.inputs
    ]


def _same(writer: OpWriter, node: Node) -> str:
    return writer.op(SAME[node.op], *_aligned(writer, node))


def _cast(writer: OpWriter, node: Node) -> str:
    return writer.op("Cast", writer.names[node.inputs[0]], to=ONNX_TYPES[node.dtype])


def _rsqrt(writer: OpWriter, node: Node) -> str:
    return writer.op("Reciprocal", writer.op("Sqrt", writer.names[node.inputs[0]]))


def _log1p(writer: OpWriter, node: Node) -> str:
    one = writer.number(np.float32(1))
    return writer.op("Log", writer.op("Add", writer.names[node.inputs[0]], one))


def _not_equal(writer: OpWriter, node: Node) -> str:
    return writer.op("Not", writer.op("Equal", *_aligned(writer, node)))


def _floor_divide(writer: OpWriter, node: Node) -> str:
    x, y = _aligned(writer, node)
    if node.dtype == "int32":  # Div cuts towards zero
        return writer.op("Div", writer.op("Sub", x, writer.op("Mod", x, y)), y)
    return writer.op("Floor", writer.op("Div", x, y))


def _mod(writer: OpWriter, node: Node) -> str:
    x, y = _aligned(writer, node)
    if node.dtype == "int32":
        return writer.op("Mod", x, y)
    return writer.op("Sub", x, writer.op("Mul", writer.op("Floor", writer.op("Div", x, y)), y))


def _reduce(writer: OpWriter, node: Node) -> str:
    (value,) = node.inputs
    axes = writer.integers([axis + lead(value) for axis in node.attrs["axes"]])
    return writer.op(REDUCE[node.op], writer.names[value], axes, keepdims=1)


def _cumsum(writer: OpWriter, node: Node) -> str:
    (value,) = node.inputs
    axis = writer.number(np.int64(node.attrs["axes"][0] + lead(value)))
    return writer.op("CumSum", writer.names[value], axis)


def _reshape(writer: OpWriter, node: Node) -> str:
    shape = [-1] * lead(node) + list(node.shape)
    return writer.op("Reshape", writer.names[node.inputs[0]], writer.integers(shape))


def _permute(writer: OpWriter, node: Node) -> str:
    front = list(range(lead(node)))
    axes = front + [axis + len(front) for axis in node.attrs["axes"]]
    return writer.op("Transpose", writer.names[node.inputs[0]], perm=axes)


def _slice(writer: OpWriter, node: Node) -> str:
    start, stop, step = node.attrs["range"]
    bounds = [writer.integers([value]) for value in (start, stop, node.attrs["axis"] + lead(node), step)]
    return writer.op("Slice", writer.names[node.inputs[0]], *bounds)


def _concat(writer: OpWriter, node: Node) -> str:
    like = next((value for value in node.inputs if value.domain != "const"), node.inputs[0])
    parts = [writer.wide(value, like) if lead(node) else writer.names[value] for value in node.inputs]
    return writer.op("Concat", *parts, axis=node.attrs["axis"] + lead(node))


def _expand(writer: OpWriter, node: Node) -> str:
    shape = [1] * lead(node) + list(node.shape)
    return writer.op("Expand", writer.names[node.inputs[0]], writer.integers(shape))


def _gather(writer: OpWriter, node: Node) -> str:
    source, index = node.inputs
    wide = writer.op("Cast", writer.names[index], to=TensorProto.INT64)
    axis = node.attrs["axis"] + lead(node)
    return writer.op("GatherElements", writer.wide(source, index), wide, axis=axis)


def _topk_index(writer: OpWriter, node: Node) -> str:
    index = f"v{len(writer.nodes)}"
    operands = [writer.names[node.inputs[0]], writer.integers([node.attrs["k"]])]
    writer.nodes.append(helper.make_node("TopK", operands, [f"{index}_values", index], axis=-1))
    return writer.op("Cast", index, to=TensorProto.INT32)


def _select_rows(writer: OpWriter, node: Node) -> str:
    return writer.op("Gather", writer.names[node.inputs[0]], "rows", axis=0)


def _embedding(writer: OpWriter, node: Node) -> str:
    ids, table = node.inputs
    rows = writer.op("Gather", writer.names[table], writer.names[ids], axis=0)
    return writer.op("Reshape", rows, writer.integers([-1, *node.shape]))


def _linear(writer: OpWriter, node: Node) -> str:
    x, weight = node.inputs
    return writer.op("MatMul", writer.names[x], writer.op("Transpose", writer.names[weight], perm=[1, 0]))


def _grouped_linear(writer: OpWriter, node: Node) -> str:
    """x [T, K] or [T, S, K], index [T, S], weight [E, N, K] → [T, S, N]."""
    x, index, weight = node.inputs
    matrices = writer.op("Gather", writer.names[weight], writer.names[index], axis=0)
    columns = writer.op(
        "Reshape", writer.names[x], writer.integers([-1, x.size // weight.shape[2], weight.shape[2], 1])
    )
    out = writer.op("MatMul", matrices, columns)
    return writer.op("Squeeze", out, writer.integers([-1]))


def _attention(writer: OpWriter, node: Node) -> str:
    """ONNX's Attention; what it has no word for (windows, sinks, softcaps) is written out."""
    if node.attrs["slopes"] or node.attrs["chunk"] or node.attrs.get("extent"):
        raise UnsupportedError(f"{node.origin}: attention with chunks or biases of the distance, as ONNX")
    q, k, v, *sinks = node.inputs
    heads = [_heads_first(writer, value) for value in (q, k, v)]
    attrs = node.attrs
    if not (attrs["window"] or attrs["softcap"] or sinks):
        out = writer.op("Attention", *heads, is_causal=1, scale=float(attrs["scale"]))
    else:
        out = _written_out(writer, node, heads)
    out = writer.op("Transpose", out, perm=[0, 2, 1, 3])
    return writer.op("Reshape", out, writer.integers([-1, *node.shape]))


def _heads_first(writer: OpWriter, value: Node) -> str:
    """[T, H, D] as [1, H, T, D]."""
    first = writer.op("Transpose", writer.names[value], perm=[1, 0, 2])
    return writer.op("Unsqueeze", first, writer.integers([0]))


def _written_out(writer: OpWriter, node: Node, heads: list[str]) -> str:
    q, k = node.inputs[:2]
    group = q.shape[0] // k.shape[0]
    queries, keys, values = heads[0], *(_repeated(writer, heads[i], group, node.inputs[i]) for i in (1, 2))
    scale = writer.number(np.float32(node.attrs["scale"]))
    scores = writer.op("MatMul", queries, writer.op("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = writer.op("Mul", scores, scale)
    if softcap := node.attrs["softcap"]:
        cap = writer.number(np.float32(softcap))
        scores = writer.op("Mul", writer.op("Tanh", writer.op("Div", scores, cap)), cap)
    masked = writer.number(np.float32(-np.inf))
    scores = writer.op("Where", _visible(writer, q, node.attrs["window"]), scores, masked)
    if len(node.inputs) == 3:
        return writer.op("MatMul", writer.op("Softmax", scores, axis=-1), values)
    sinks = writer.op("Reshape", writer.names[node.inputs[3]], writer.integers([1, q.shape[0], 1, 1]))
    column = writer.op("ReduceMax", scores, writer.integers([-1]), keepdims=1)
    column = writer.op("Add", writer.op("Mul", column, writer.number(np.float32(0))), sinks)
    weights = writer.op("Softmax", writer.op("Concat", column, scores, axis=-1), axis=-1)
    bounds = [writer.integers([value]) for value in (1, np.iinfo(np.int64).max, 3)]
    return writer.op("MatMul", writer.op("Slice", weights, *bounds), values)


def _repeated(writer: OpWriter, value: str, group: int, node: Node) -> str:
    """[1, Hkv, T, D] as [1, Hkv · group, T, D], each head `group` times."""
    count, width = node.shape[0], node.shape[1]
    apart = writer.op("Unsqueeze", value, writer.integers([2]))
    many = writer.op("Expand", apart, writer.integers([1, count, group, 1, width]))
    return writer.op("Reshape", many, writer.integers([1, count * group, -1, width]))


def _visible(writer: OpWriter, q: Node, window: int) -> str:
    """[T, T] bool: a query sees itself and what comes before, `window` positions at most (0 = all)."""
    count = writer.op("Squeeze", writer.op("Shape", writer.names[q], start=0, end=1))
    zero, one = (writer.number(np.int64(value)) for value in (0, 1))
    places = writer.op("Range", zero, count, one)
    rows, columns = (writer.op("Unsqueeze", places, writer.integers([axis])) for axis in (1, 0))
    distance = writer.op("Sub", rows, columns)
    seen = writer.op("GreaterOrEqual", distance, zero)
    if not window:
        return seen
    near = writer.op("Less", distance, writer.number(np.int64(window)))
    return writer.op("And", seen, near)


LOWERED: dict[str, Callable[[OpWriter, Node], str]] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(REDUCE, _reduce),
    "cast": _cast,
    "rsqrt": _rsqrt,
    "log1p": _log1p,
    "ne": _not_equal,
    "mod": _mod,
    "floordiv": _floor_divide,
    "cumsum": _cumsum,
    "reshape": _reshape,
    "permute": _permute,
    "slice": _slice,
    "cat": _concat,
    "expand": _expand,
    "gather": _gather,
    "topk_index": _topk_index,
    "select_rows": _select_rows,
    "embedding": _embedding,
    "linear": _linear,
    "grouped_linear": _grouped_linear,
    "attention": _attention,
}
