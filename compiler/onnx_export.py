"""The compiled graph in standard ONNX operators: a second opinion, and something to look at in Netron.

Inputs are `token_ids` [T] and `positions` [T] of one sequence from its start, and `rows` [R], which logits
are wanted; the output is `logits` [R, vocab_size]. Attention sees the sequence itself, there is no KV cache.
Weights are embedded, as the package rounds them, where the file stays small; else each is an input of the
graph under its name, so the model stays valid and whole without a second file.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import Graph, Node
from pagedc.compiler.onnx_ops import LOWERED, OpWriter

Array = NDArray[Any]
OPSET = 23  # the first with Attention
IR_VERSION = 11
MAX_EMBEDDED = 16 << 20  # bytes of float32 weights
TYPES = {"float32": np.float32, "bfloat16": np.float32, "int32": np.int32, "bool": np.bool_}


def export_onnx(graph: Graph, weight: Callable[[Node], Array], name: str) -> bytes:
    """The model as a serialized ModelProto that onnx.checker accepts.

    `weight` gives the value of a constant node that needs the checkpoint. Raises UnsupportedError for an op
    that ONNX has no form of.
    """
    parameters = [node for node in graph.nodes if node.op == "parameter"]
    embedded = sum(4 * node.size for node in parameters) <= MAX_EMBEDDED
    writer = _Writer(weight if embedded else None)
    for node in graph.nodes:
        writer.add(node)
    writer.op("Reshape", writer.names[graph.logits], writer.integers([-1, graph.logits.size]))
    writer.nodes[-1].output[0] = "logits"
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            name,
            [*writer.inputs.values()],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", graph.logits.size])],
            writer.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pagedc",
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Writer(OpWriter):
    """Nodes of our graph as nodes of ONNX, in order."""

    def __init__(self, weight: Callable[[Node], Array] | None) -> None:
        super().__init__()
        self.inputs: dict[str, Any] = {
            name: helper.make_tensor_value_info(name, TensorProto.INT64, [axis])
            for name, axis in (("token_ids", "T"), ("positions", "T"), ("rows", "R"))
        }
        self._weight = weight

    def add(self, node: Node) -> None:
        """Write one node of ours."""
        match node.op:
            case "input":
                wide = self.op("Reshape", node.attrs["name"], self.integers([-1, *node.shape]))
                self.names[node] = self.op("Cast", wide, to=TensorProto.INT32)
            case "scalar" | "constant":
                value: Array = np.asarray(node.attrs["value"], TYPES[node.dtype]).reshape(node.shape)
                self.names[node] = self.constant(value)
            case "parameter":
                self.names[node] = self._parameter(node)
            case op if op in LOWERED:
                self.names[node] = LOWERED[op](self, node)
                if node.dtype == "bfloat16":
                    self.names[node] = self.rounded(self.names[node])
            case op:
                raise UnsupportedError(f"{op} at {node.origin or 'the top level'}: ONNX has no such operator")
        if node.domain != "const":  # a reader sees which module made it
            self.nodes[-1].name = f"{node.origin}/{node.name}" if node.origin else node.name

    def _parameter(self, node: Node) -> str:
        name = str(node.attrs["name"])
        if self._weight is None:
            self.inputs[name] = helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[node.dtype])), node.shape
            )
        else:
            value: Array = np.ascontiguousarray(self._weight(node), TYPES[node.dtype]).reshape(node.shape)
            self.initializers.append(numpy_helper.from_array(value, name))
        return name
