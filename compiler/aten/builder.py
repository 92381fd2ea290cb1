"""Build the graph: what the functions of the table of ops use."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node as FxNode

from pagedc.compiler.aten.values import TOKENS, Value, broadcast_shape, dtype_of, without_tokens
from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import DType, Graph, Node, Shape


class Builder:
    """The graph so far, and the traced op that is being read."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.current: FxNode | None = None
        self.num_attention_layers = 0
        self.num_states = 0
        self.scattered: dict[Node, tuple[Value, Value, Value]] = {}  # base, index and source of a scatter
        self._leaves: dict[str, Value] = {}

    @property
    def meta(self) -> Any:
        """The fake tensor, or tuple of them, that the current op gives."""
        return self.current.meta["val"] if self.current is not None else None

    def out_shape(self, index: int | None = None) -> tuple[int, ...]:
        """The traced shape of the current op's result."""
        return self.full_shape(self.meta if index is None else self.meta[index])

    def next_state(self) -> int:
        """The number of one more state that sequences carry."""
        self.num_states += 1
        return self.num_states - 1

    def full_shape(self, fake: torch.Tensor) -> tuple[int, ...]:
        """A traced shape with TOKENS for T; refuses sizes that are neither numbers nor multiples of T."""
        shape = []
        for size in fake.shape:
            if isinstance(size, int):
                shape.append(size)
            elif size.node.expr.is_Symbol:
                shape.append(TOKENS)
            elif size.node.expr.is_Integer:
                shape.append(int(size.node.expr))
            elif (multiple := _multiple(size.node.expr)) is not None:
                shape.append(TOKENS * multiple)
            else:
                raise self.unsupported(f"a tensor of size {list(fake.shape)}")
        if sum(size < 0 for size in shape) > 1:
            raise self.unsupported(f"a tensor over pairs of tokens, {['T' if s < 0 else s for s in shape]}")
        return tuple(shape)

    def add(
        self, op: str, inputs: Sequence[Node], shape: Shape, dtype: DType | None = None, **attrs: Any
    ) -> Node:
        """A node whose domain follows from its inputs."""
        domain = "token" if any(value.domain == "token" for value in inputs) else "const"
        if dtype is None:
            dtype = inputs[0].dtype
        origin = origin_of(self.current) if self.current is not None else ""
        return self.graph.add(Node(op, tuple(inputs), tuple(shape), dtype, domain, attrs, origin))  # type: ignore[arg-type]

    def constant(self, tensor: torch.Tensor) -> Value:
        """A tensor whose value is known now."""
        array = (
            tensor.detach().to("cpu").numpy() if tensor.dtype != torch.bfloat16 else tensor.float().numpy()
        )
        dtype = dtype_of(tensor.dtype)
        array = np.ascontiguousarray(
            array.astype({"float32": np.float32, "int32": np.int32, "bool": np.bool_}[dtype])
        )
        if array.ndim == 0:
            return self.scalar(array.item(), dtype)
        node = self.add("constant", (), array.shape, dtype, value=array)
        return Value(node, tuple(array.shape))

    def scalar(self, number: float | int | bool, dtype: DType | None = None) -> Value:
        """A number."""
        if dtype is None:
            dtype = "bool" if isinstance(number, bool) else "int32" if isinstance(number, int) else "float32"
        value = {"bool": bool, "int32": int, "float32": float}[dtype](number)
        return Value(self.add("scalar", (), (), dtype, value=value), ())

    def value(self, argument: Any) -> Value:
        """A Value, made from a number where need be."""
        if isinstance(argument, Value):
            return argument
        if isinstance(argument, int | float):
            return self.scalar(argument)
        raise self.unsupported(f"an argument of type {type(argument).__name__}")

    def positions(self) -> Value:
        """The position of each token in its sequence, [T]."""
        return self.reshape(self.input("positions"), (TOKENS,))

    def cast(self, value: Value, dtype: DType) -> Value:
        """The same values as another type."""
        if value.node.dtype == dtype:
            return value
        if value.node.op == "scalar":
            return self.scalar(value.node.attrs["value"], dtype)
        return Value(self.add("cast", (value.node,), value.node.shape, dtype), value.shape)

    def reshape_node(self, node: Node, shape: Shape) -> Node:
        """The node itself where its shape is right."""
        return node if node.shape == tuple(shape) else self.add("reshape", (node,), shape)

    def reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        """`view`: the token axis must keep what stands before it."""
        if value.token_axis is not None:
            axis = next((axis for axis, size in enumerate(shape) if size < 0), None)
            if axis is None:
                raise self.unsupported(f"a view that hides the token axis, {value.shape} to {shape}")
            if np.prod(without_tokens(shape)) != np.prod(without_tokens(value.shape)):
                raise self.unsupported(f"a view of more or fewer tokens, {value.shape} to {shape}")
            if np.prod(value.shape[: value.token_axis]) != np.prod(shape[:axis]):
                raise self.unsupported(f"a view that mixes tokens, {value.shape} to {shape}")
        return Value(self.reshape_node(value.node, without_tokens(shape)), shape)

    def broadcast(self, values: Sequence[Value], shape: tuple[int, ...]) -> list[Node]:
        """Nodes of one per-token shape, that of `shape`; numbers stay numbers."""
        return [self.broadcast_one(value, shape) for value in values]

    def broadcast_one(self, value: Value, shape: tuple[int, ...]) -> Node:
        """Expand one value to a traced shape; raises UnsupportedError where token axes do not meet."""
        if value.node.op == "scalar":
            return value.node
        padded = (1,) * (len(shape) - len(value.shape)) + value.shape
        if TOKENS in shape:
            axis = shape.index(TOKENS)
            if value.token_axis is None:
                if padded[axis] != 1:
                    raise self.unsupported("a constant along the token axis")
            elif padded[axis] != TOKENS:
                raise self.unsupported("an op that crosses tokens")
            padded = padded[:axis] + padded[axis + 1 :]
        node = self.reshape_node(value.node, without_tokens(padded))
        target = without_tokens(shape)
        return node if node.shape == target else self.add("expand", (node,), target)

    def pointwise(
        self, op: str, *arguments: Any, dtype: DType | None = None, shape: tuple[int, ...] | None = None
    ) -> Value:
        """An op on broadcast values."""
        values = [self.value(argument) for argument in arguments]
        if shape is None:
            shape = broadcast_shape([value.shape for value in values])
        nodes = self.broadcast(values, shape)
        if all(node.op == "scalar" for node in nodes):
            shape = ()
        return Value(self.add(op, nodes, without_tokens(shape), dtype), shape)

    def axis(self, value: Value, dim: int) -> int:
        """The per-token axis of a traced dim; refuses the token axis."""
        dim %= len(value.shape)
        if dim == value.token_axis:
            raise self.unsupported(
                "an op over tokens; only attention and layers with state look at other tokens"
            )
        return dim - (TOKENS in value.shape[:dim])

    def unsupported(self, what: str) -> UnsupportedError:
        """The error for the current op: one line that names the op and its module."""
        assert self.current is not None
        return UnsupportedError(
            f"{op_name(self.current)} at {origin_of(self.current) or 'the top level'}: {what}"
        )

    def input(self, name: str) -> Value:
        """An input of the step, [1, T]."""
        if name not in self._leaves:
            node = Node("input", (), (1,), "int32", "token", {"name": name})
            self._leaves[name] = Value(self.graph.add(node), (1, TOKENS))
        return self._leaves[name]


def op_name(node: FxNode) -> str:
    """`namespace.name` of a traced op, without its overload."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}"
    return getattr(target, "__name__", str(target))


def origin_of(node: FxNode) -> str:
    """The path of the innermost module, without the wrapper's own prefix."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return path.removeprefix("model").removeprefix(".")


def _multiple(expr: Any) -> int | None:
    """m of an expression m T."""
    factor, rest = expr.as_coeff_Mul()
    return int(factor) if rest.is_Symbol and factor.is_Integer and factor > 1 else None
