"""Store keys and values from the row kernel that makes the keys: a launch fewer in each layer.

What rotates K writes it to the token's slot of the KV cache and copies V, which it has at hand; K needs no
buffer then. Where K comes out of a linear as it is, attention keeps a kernel that stores.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

from pagedc.compiler.graph import Node
from pagedc.compiler.program import Buffer, Call, Program
from pagedc.compiler.rows.kernel import Expr, RowKernel


class CacheStore(NamedTuple):
    """Where a row kernel finds K and V of its token. Sizes are those of the cache."""

    k: int  # which of its outputs
    v: tuple[Literal["in", "out"], int]  # which of its inputs or outputs
    v_offset: int  # elements into that
    num_kv_heads: int
    head_dim: int
    v_head_dim: int

    def v_node(self, kernel: RowKernel) -> Node:
        """The value that V is a run of."""
        kind, position = self.v
        return (kernel.inputs if kind == "in" else kernel.outputs)[position]


def fuse_cache_stores(program: Program) -> int:
    """Give row kernels their CacheStore, as the constant `cache`; returns how many have one."""
    kernels = {function.name: function.kernel for function in program.row_functions}
    readers: dict[Buffer, int] = {}
    for call in program.calls:
        for operand in call.operands:
            readers[operand.buffer] = readers.get(operand.buffer, 0) + 1
    fused = 0
    for rows, attention in pairwise(program.calls):
        if rows.kind != "rows" or attention.kind != "attention" or len(attention.operands) != 3:
            continue
        k = attention.operands[1].buffer
        store = _store(kernels[rows.constants["function"]], rows, attention)
        if store is not None and readers[k] == 1:
            rows.constants = {**rows.constants, "cache": store}
            rows.layer = attention.layer
            rows.outputs = [buffer for buffer in rows.outputs if buffer is not k]
            attention.operands = attention.operands[:1]
            fused += 1
    return fused


def _store(kernel: RowKernel, rows: Call, attention: Call) -> CacheStore | None:
    """How `rows` can store; None where it has not both, or K is read again or made piece by piece."""
    c = attention.constants
    _, k, v = attention.operands
    if k.buffer not in rows.outputs or k.offset or k.buffer.width != c["num_kv_heads"] * c["head_dim"]:
        return None
    position = rows.outputs.index(k.buffer)
    node = kernel.outputs[position]
    for stage in kernel.stages:
        if any(_loads(box.expr, node) or (stage.node is node and box.reduced) for box in stage.boxes):
            return None
    if node.size == 1 or node.op == "topk_index":
        return None
    source = _place_of(v.buffer, rows)
    if source is None:
        return None
    return CacheStore(position, source, v.offset, c["num_kv_heads"], c["head_dim"], c["v_head_dim"])


def _place_of(buffer: Buffer, rows: Call) -> tuple[Literal["in", "out"], int] | None:
    if buffer in rows.outputs:
        return "out", rows.outputs.index(buffer)
    for position, (kind, index) in enumerate(rows.inputs):
        if kind == "b" and rows.operands[index].buffer is buffer:
            return "in", position
    return None


def _loads(expr: Expr, node: Node) -> bool:
    return expr.value is node or any(_loads(arg, node) for arg in expr.args)
