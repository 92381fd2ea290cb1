"""Walk an exported program and build the graph.

The trace runs over one flat sequence of T tokens, T symbolic. Each tensor has the token axis at most once;
the importer notes where, takes it out of the shape, and hands each op to its function in the table. Only what
the logits depend on is read, so dead code in a module costs nothing and refuses nothing.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node as FxNode

from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import DType, Graph, Node, Shape
from pagedc.compiler.masks import MaskReader, is_symbolic

TOKENS = -1  # stands for T in a full shape; -m for an axis of m T, which is the axis of m of a token's value
COMPLEX = "complex"  # the table's entry for every op that reads complex values and is not theirs
PARTS = "parts"  # … that reads tokens repeated for each of several parts: compiler/aten/parts.py
PAIRS = "pairs"  # the table's entry for every op on values with two token axes

OpFunction = TypeVar("OpFunction", bound=Callable[..., Any])
TABLE: dict[str, Callable[..., Any]] = {}


def op(*names: str) -> Callable[[OpFunction], OpFunction]:
    """Register a function for ATen ops: f(importer, *arguments, **keywords) -> Value or tuple of them."""

    def register(function: OpFunction) -> OpFunction:
        TABLE.update(dict.fromkeys(names, function))
        return function

    return register


class Value(NamedTuple):
    """A traced tensor: its node, and its shape as traced, TOKENS marking the token axis."""

    node: Node
    shape: tuple[int, ...]

    @property
    def token_axis(self) -> int | None:
        """Where T, or a multiple of it, stands in the traced shape."""
        return next((axis for axis, size in enumerate(self.shape) if size < 0), None)


class Parts(NamedTuple):
    """A traced tensor [E, T, ..] or [E T, ..], as compiler/aten/parts.py follows it.

    `value` is [E, T, ..], or [k, T, ..] of the parts that `chosen`, k numbers, names; the rest are 0.
    """

    value: Value
    num_parts: int
    flat: bool  # whether the traced shape is [E T, ..]
    chosen: Node | None = None


class NoRuleError(Exception):
    """No function in the table knows an op: the caller may decompose further, or refuse."""

    def __init__(self, op: str, where: str) -> None:
        super().__init__(op)
        self.op = op
        self.where = where


class Importer:
    """State of one import; the functions of the table build on its methods."""

    def __init__(
        self, program: ExportedProgram, buffers: dict[str, torch.Tensor], names: dict[str, str]
    ) -> None:
        """`buffers`: values of the computed ones; `names`: the one name of each, perhaps tied, parameter."""
        self.graph = Graph()
        self.program = program
        self.buffers = buffers
        self.names = names
        self.values: dict[FxNode, Any] = {}
        self.current: FxNode | None = None
        self.num_attention_layers = 0
        self.num_states = 0
        self.scattered: dict[Node, tuple[Value, Value, Value]] = {}  # base, index and source of a scatter
        self.masks = MaskReader(program, buffers)
        self._leaves: dict[str, Value] = {}

    def run(self) -> Graph:
        """Build the graph. Raises NoRuleError or UnsupportedError."""
        placeholders = self._placeholders()
        output = next(node for node in self.program.graph.nodes if node.op == "output")
        needed = self._needed(output)
        unknown = [node for node in self.program.graph.nodes if node in needed and not self._known(node)]
        if unknown:
            raise NoRuleError(op_name(unknown[0]), _origin(unknown[0]))
        for node in self.program.graph.nodes:
            if node not in needed:
                continue
            self.current = node
            if node.op == "placeholder":
                self.values[node] = placeholders[node.name]()
            elif node.op == "get_attr":
                self.values[node] = self.constant(getattr(self.program.graph_module, str(node.target)))
            elif node.op == "call_function" and not self._is_mask(node):
                self.values[node] = self._call(node)
        logits = self.values[output.args[0][0]]
        self.graph.output = self.reshape_node(logits.node, (logits.shape[-1],))
        return self.graph

    # What the functions of the table use.

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
        origin = _origin(self.current) if self.current is not None else ""
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
        return self.reshape(self._input("positions"), (TOKENS,))

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
            raise self.unsupported("an op along the token axis")
        return dim - (TOKENS in value.shape[:dim])

    def unsupported(self, what: str) -> UnsupportedError:
        """The error for the current op: one line that names the op and its module."""
        assert self.current is not None
        return UnsupportedError(
            f"{op_name(self.current)} at {_origin(self.current) or 'the top level'}: {what}"
        )

    # Leaves.

    def _placeholders(self) -> dict[str, Callable[[], Value]]:
        table: dict[str, Callable[[], Value]] = {}
        for spec in self.program.graph_signature.input_specs:
            name, target = spec.arg.name, spec.target
            if spec.kind == InputKind.USER_INPUT:
                table[name] = partial(self._input, name)
            elif spec.kind == InputKind.CONSTANT_TENSOR and not self.program.constants[target].is_meta:
                table[name] = partial(self.constant, self.program.constants[target])
            elif spec.kind == InputKind.PARAMETER:
                table[name] = partial(self._parameter, target)
            else:
                table[name] = partial(self._buffer, target)
        return table

    def _input(self, name: str) -> Value:
        if name not in self._leaves:
            node = Node("input", (), (1,), "int32", "token", {"name": name})
            self._leaves[name] = Value(self.graph.add(node), (1, TOKENS))
        return self._leaves[name]

    def _parameter(self, target: str) -> Value:
        target = target.removeprefix("model.")  # the wrapper's
        target = self.names.get(target, target)
        if target not in self._leaves:
            shape = self.full_shape(self.meta)
            self._leaves[target] = Value(self.add("parameter", (), shape, "float32", name=target), shape)
        return self._leaves[target]

    def _buffer(self, target: str) -> Value:
        if target.removeprefix("model.") in self.buffers:
            return self.constant(self.buffers[target.removeprefix("model.")])
        return self._parameter(target)

    # The walk.

    def _known(self, node: FxNode) -> bool:
        return (
            node.op != "call_function"
            or node.target is operator.getitem
            or is_symbolic(node)
            or op_name(node) in TABLE
            or _is_pair(node)
        )

    def _needed(self, output: FxNode) -> set[FxNode]:
        """What the output depends on, but for what a mask is made of: that is run, not imported."""
        seen: set[FxNode] = set()
        stack = [output]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                if not self._is_mask(node):
                    stack.extend(source for source in node.all_input_nodes if not self._is_cut(node, source))
        return seen

    def _is_mask(self, node: FxNode) -> bool:
        """Whether it says something of each pair of tokens that positions alone decide."""
        return node in self.masks.static and _is_pair(node)

    def _is_cut(self, reader: FxNode, source: FxNode) -> bool:
        """Whether a reader of pairs meets `source` as a mask or as a part of one."""
        return _is_pair(reader) and source in self.masks.static

    def _call(self, node: FxNode) -> Any:
        if is_symbolic(node):
            return node.meta["val"]
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        arguments, keywords = torch.fx.map_arg(
            (node.args, node.kwargs), lambda argument: self.values.get(argument, argument)
        )
        try:
            if _is_pair(node) or any(_is_pair(source) and source in self.values for source in node.args):
                return TABLE[PAIRS](self, node, arguments)
            name = op_name(node)
            if any(isinstance(argument, Parts) for argument in arguments):
                return TABLE[PARTS](self, name, *arguments, **keywords)
            if name != "aten.view_as_real" and any(_is_complex(argument) for argument in node.args):
                return TABLE[COMPLEX](self, name, *arguments, **keywords)
            return TABLE[name](self, *arguments, **keywords)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # A form of the op that its function does not know: a refusal, as an unknown op is.
            raise self.unsupported(f"arguments without a rule in the compiler ({error})") from error


def dtype_of(dtype: torch.dtype) -> DType:
    """Our type for a torch one: the graph computes in float32, and counts in int32."""
    if dtype.is_floating_point:
        return "float32"
    return "bool" if dtype == torch.bool else "int32"


def _multiple(expr: Any) -> int | None:
    """m of an expression m T."""
    factor, rest = expr.as_coeff_Mul()
    return int(factor) if rest.is_Symbol and factor.is_Integer and factor > 1 else None


def without_tokens(shape: tuple[int, ...]) -> Shape:
    """A traced shape with the token axis taken out."""
    return tuple(abs(size) for size in shape if size != TOKENS)


def broadcast_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The traced shape of a pointwise op."""
    rank = max((len(shape) for shape in shapes), default=0)
    columns = zip(*[(1,) * (rank - len(shape)) + shape for shape in shapes], strict=True)
    return tuple(min(column) if min(column) < 0 else max(column) for column in columns)


def _is_pair(node: Any) -> bool:
    """Whether a traced tensor has the token axis twice."""
    fake = node.meta.get("val") if isinstance(node, FxNode) else None
    if isinstance(fake, tuple | list) and fake:
        fake = fake[0]
    return isinstance(fake, torch.Tensor) and sum(_is_open(size) for size in fake.shape) > 1


def _is_complex(node: Any) -> bool:
    fake = node.meta.get("val") if isinstance(node, FxNode) else None
    return isinstance(fake, torch.Tensor) and fake.is_complex()


def _is_open(size: Any) -> bool:
    return not isinstance(size, int) and not size.node.expr.is_Integer


def op_name(node: FxNode) -> str:
    """`namespace.name` of a traced op, without its overload."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}"
    return getattr(target, "__name__", str(target))


def _origin(node: FxNode) -> str:
    """The path of the innermost module, without the wrapper's own prefix."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return path.removeprefix("model").removeprefix(".")
