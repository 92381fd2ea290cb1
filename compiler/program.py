"""A program: the graph as a list of calls to kernels over planned buffers, which a target prints."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pagedc.compiler.graph import Domain, DType, Node
from pagedc.compiler.rows.kernel import RowKernel


@dataclass(eq=False, slots=True)
class Weight:
    """A tensor of the package: a constant of the graph, in the format its kernels read."""

    name: str
    node: Node
    format: str  # of kernels' packed layouts, or "raw": values in order, float32 or int32
    index: int = 0  # in the list that `create` is given
    stripes: int = 1  # parts of the rows that are packed 16 rows of each in turn

    @property
    def shape(self) -> tuple[int, ...]:
        """Before packing."""
        return self.node.shape


@dataclass(eq=False, slots=True)
class Buffer:
    """A value of the token or row domain in memory: one row a token, `width` elements."""

    name: str
    width: int
    dtype: DType
    domain: Domain
    offset: int = 0  # bytes a token into the arena of its domain
    first: int = 0  # call that writes it
    last: int = 0  # last call that reads it

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * {"float32": 4, "int32": 4, "bool": 4, "bfloat16": 2}[self.dtype]


@dataclass(frozen=True, slots=True)
class Operand:
    """Part of each row of a buffer, or of an input of the step: `offset` elements from the row's start."""

    buffer: Buffer
    offset: int = 0


@dataclass(eq=False, slots=True)
class Call:
    """One kernel at work. `constants` specialise it; operands, weights and outputs may differ by layer."""

    kind: Literal[
        "embedding",
        "linear",
        "grouped_linear",
        "attention",
        "causal_conv",
        "linear_recurrence",
        "running_max",
        "rows",
        "select_rows",
    ]
    origin: str
    constants: dict[str, Any] = field(default_factory=dict)
    operands: list[Operand] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)
    layer: int = 0  # of an attention: which part of the KV cache; of a stateful call: which state

    @property
    def inputs(self) -> list[tuple[str, int]]:
        """Of a row kernel or a stateful call, in order: `w` and which weight, `b` and which operand, or `a`.

        `a` is the tile of the linear whose epilogue the row kernel is; its own operand and weight come first.
        """
        own = int("epilogue" in self.constants)
        count = {"w": own, "b": own, "a": 0}
        found = []
        for kind in self.constants["inputs"]:
            found.append((kind, count[kind]))
            count[kind] += 1
        return found

    @property
    def shape_key(self) -> tuple[Any, ...]:
        """What calls of one column of a layer table have in common."""
        return self.kind, len(self.operands), len(self.weights), len(self.outputs)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for calls that differ in weights, buffers and layer only."""
        views = tuple(
            (operand.offset, operand.buffer.width, operand.buffer.dtype) for operand in self.operands
        )
        stores = tuple((buffer.width, buffer.dtype, buffer.domain) for buffer in self.outputs)
        formats = tuple((weight.format, weight.shape) for weight in self.weights)
        return self.kind, tuple(sorted(self.constants.items())), views, stores, formats


@dataclass(slots=True)
class RowFunction:
    """A distinct row kernel, shared by all calls of its name."""

    name: str
    kernel: RowKernel
    body: str
    origins: list[str] = field(default_factory=list)
    width: int = 0  # of an epilogue: it is given a tile of a row at a time


@dataclass(slots=True)
class Program:
    """Calls in order, and what they use."""

    calls: list[Call]
    weights: list[Weight]
    buffers: list[Buffer]
    row_functions: list[RowFunction]
    logits: Buffer
    num_attention_layers: int
    arena_bytes: dict[str, int] = field(default_factory=dict)  # domain → bytes a token or row

    @property
    def head(self) -> Call | None:
        """The linear that makes logits of hidden states; None where something else makes them."""
        linears = [call for call in self.calls if call.kind == "linear" and call.outputs[0].domain == "row"]
        return linears[0] if len(linears) == 1 else None

    @property
    def hidden_size(self) -> int:
        """Of the rows that the head reads; 0 = there is no such head."""
        return 0 if self.head is None else int(self.head.constants["k"])
