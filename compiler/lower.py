"""From the graph to a program: what makes one kernel, what lives in memory, what runs when."""

import re
from collections.abc import Callable, Iterable

from pagedc.compiler.epilogues import fuse_epilogues
from pagedc.compiler.errors import InternalError, UnsupportedError
from pagedc.compiler.flat_operands import FREE, root_of, store_operands, view_of
from pagedc.compiler.graph import Graph, Node
from pagedc.compiler.memory_plan import plan_memory
from pagedc.compiler.program import Buffer, Call, Operand, Program, RowFunction, Weight
from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.rows.plan import build_kernel

MAX_LOCALS = 1 << 16  # elements on a thread's stack


def lower(graph: Graph, print_body: Callable[[RowKernel], str]) -> Program:
    """Plan calls, buffers and weights. Raises UnsupportedError for what no kernel can hold."""
    lowering = _Lowering(graph, print_body)
    program = lowering.run()
    fuse_epilogues(program, print_body)
    lowering.place_buffers()
    return program


class _Lowering:
    def __init__(self, graph: Graph, print_body: Callable[[RowKernel], str]) -> None:
        self.graph = graph
        self.print_body = print_body
        self.program = Program([], [], [], [], Buffer("logits", graph.logits.size, "float32", "row"), 0)
        self.buffers: dict[Node, Buffer] = {}
        self.weights: dict[tuple[Node, str], Weight] = {}
        self.functions: dict[tuple[str, int, int], RowFunction] = {}
        self.done: set[Node] = set()
        self.readers: dict[Node, set[Node]] = {}

    def run(self) -> Program:
        """The calls and what they use."""
        store_operands(self.graph)
        self.graph.sort()
        self._find_readers()
        self._prologue()
        for node in self.graph.nodes:
            if node.is_anchor or node.op == "select_rows":
                self._rows_for(node.inputs)
                self._anchor(node)
        self._rows_for([self.graph.logits])
        self.program.logits = self._operand(self.graph.logits).buffer
        self.program.weights = list(self.weights.values())
        self.program.row_functions = list(self.functions.values())
        self.program.num_attention_layers = sum(1 for _ in self.graph.anchors("attention"))
        return self.program

    def place_buffers(self) -> None:
        """Lifetimes, and from them places in the arenas."""
        self._lifetimes()
        plan_memory(self.program)

    def _find_readers(self) -> None:
        """Who needs each computed value, looking through index maps."""
        for node in self.graph.nodes:
            if node.op in FREE and node.domain != "const":
                continue
            for value in node.inputs:
                self.readers.setdefault(root_of(value), set()).add(node)

    # Row kernels.

    def _prologue(self) -> None:
        """What depends on positions and token ids only is computed once, before everything."""
        early: set[Node] = set()
        for node in self.graph.nodes:
            if node.domain == "token" and (
                node.op == "input"
                or (node.is_row_op and all(v in early or v.domain == "const" for v in node.inputs))
            ):
                early.add(node)
        nodes = [node for node in self.graph.nodes if node in early and _is_computed(node)]
        self._kernel(nodes)

    def _rows_for(self, values: Iterable[Node]) -> None:
        """One kernel of all row ops that these values still need."""
        needed: set[Node] = set()
        stack = list(values)
        while stack:
            node = stack.pop()
            if node in needed or node in self.done or not node.is_row_op:
                continue
            needed.add(node)
            stack.extend(node.inputs)
        for domain in ("token", "row"):
            self._kernel(
                [
                    node
                    for node in self.graph.nodes
                    if node in needed and _is_computed(node) and node.domain == domain
                ]
            )

    def _kernel(self, nodes: list[Node]) -> None:
        if not nodes:
            return
        inside = set(nodes)
        outputs = [node for node in nodes if self._is_read_outside(node, inside)]
        kernel = build_kernel(nodes, outputs)
        if sum(node.size for node in kernel.locals) > MAX_LOCALS:
            largest = max(kernel.locals, key=lambda node: node.size)
            raise UnsupportedError(
                f"{largest.op} at {largest.origin}: {largest.size} values of one token in a row kernel"
            )
        self.done |= inside
        function = self._function(kernel, nodes)
        call = Call("rows", function.origins[-1], {"function": function.name})
        for value in kernel.inputs:
            if value.domain == "const":
                call.weights.append(self._weight(value, "raw"))
            else:
                call.operands.append(Operand(self._buffer(value)))
        # The printed function takes its inputs in the kernel's order: operands and weights interleaved.
        call.constants["inputs"] = tuple("w" if value.domain == "const" else "b" for value in kernel.inputs)
        call.outputs = [self._buffer(node) for node in kernel.outputs]
        self.program.calls.append(call)

    def _is_read_outside(self, node: Node, inside: set[Node]) -> bool:
        return node is root_of(self.graph.logits) or not self.readers.get(node, set()) <= inside

    def _function(self, kernel: RowKernel, nodes: list[Node]) -> RowFunction:
        body = self.print_body(kernel)
        key = (body, len(kernel.inputs), len(kernel.outputs))
        origins = dict.fromkeys(node.origin for node in nodes if node.origin)
        if key not in self.functions:
            self.functions[key] = RowFunction(f"rows_{len(self.functions)}", kernel, body)
        self.functions[key].origins.append(", ".join(origins))
        return self.functions[key]

    # Anchors.

    def _anchor(self, node: Node) -> None:
        call = Call(node.op, node.origin)  # type: ignore[arg-type]
        match node.op:
            case "embedding":
                ids, table = node.inputs
                call.constants = {"rows": table.shape[0], "width": table.shape[1], "count": ids.size}
                call.operands = [self._operand(ids)]
                call.weights = [self._weight(table, table.attrs.get("format", "f32"))]
            case "linear":
                x, weight = node.inputs
                call.constants = {
                    "n": weight.shape[0],
                    "k": weight.shape[1],
                    "count": x.size // weight.shape[1],
                }
                call.operands = [self._operand(x)]
                call.weights = [self._weight(weight, weight.attrs["format"])]
            case "grouped_linear":
                x, index, weight = node.inputs
                experts, rows, columns = weight.shape
                call.constants = {
                    "experts": experts,
                    "n": rows,
                    "k": columns,
                    "top_k": index.size,
                    "shared_x": x.size == columns,
                }
                call.operands = [self._operand(x), self._operand(index)]
                call.weights = [self._weight(weight, weight.attrs["format"])]
            case "attention":
                q, k, v = node.inputs[:3]
                call.constants = {
                    "num_heads": q.shape[0],
                    "num_kv_heads": k.shape[0],
                    "head_dim": q.shape[1],
                    "v_head_dim": v.shape[1],
                    "has_sinks": node.attrs["sinks"],
                    "has_slopes": node.attrs["slopes"],
                    **{name: node.attrs[name] for name in ("scale", "window", "chunk", "softcap")},
                }
                biased = node.inputs[-2:-1] if node.attrs.get("extent") else ()
                for x in biased:
                    call.constants |= {"rank": x.shape[1], "extent": node.attrs["extent"]}
                tables = [value for value in node.inputs[3:] if value not in biased]
                call.operands = [self._operand(value) for value in (q, k, v, *biased)]
                call.weights = [self._weight(value, "raw") for value in tables]
                call.layer = node.attrs["layer"]
            case "causal_conv":
                taps, channels = node.inputs[1].shape
                call.constants = {"channels": channels, "taps": taps}
                self._take_inputs(call, node)
            case "running_max":
                call.constants = {"channels": node.size, "initial": node.attrs["initial"]}
                self._take_inputs(call, node)
            case "linear_recurrence":
                (key_heads, key_dim), (heads, value_dim) = node.inputs[0].shape, node.shape
                decays = node.inputs[3].shape[1:]
                call.constants = {"heads": heads, "key_heads": key_heads, "key_dim": key_dim}
                call.constants |= {"value_dim": value_dim, "decays": decays}
                call.constants |= {name: node.attrs[name] for name in ("has_rate", "is_delta")}
                self._take_inputs(call, node)
            case "select_rows":
                call.operands = [self._operand(node.inputs[0])]
                call.constants = {"width": node.size}
        call.outputs = [self._buffer(node)]
        self.program.calls.append(call)

    def _take_inputs(self, call: Call, node: Node) -> None:
        """Inputs of a stateful call: each per token, or the same for all; `inputs` says which."""
        call.constants["inputs"] = tuple("w" if value.domain == "const" else "b" for value in node.inputs)
        call.operands = [self._operand(value) for value in node.inputs if value.domain != "const"]
        call.weights = [self._weight(value, "raw") for value in node.inputs if value.domain == "const"]
        call.layer = node.attrs["layer"]

    def _operand(self, value: Node) -> Operand:
        view = view_of(value)
        if view is None:
            raise InternalError(f"{value.name} does not lie flat")
        return Operand(self._buffer(view[0]), view[1])

    def _buffer(self, node: Node) -> Buffer:
        if node not in self.buffers:
            name = node.attrs["name"] if node.op == "input" else _buffer_name(node)
            buffer = Buffer(name, node.size, node.dtype, node.domain)
            self.buffers[node] = buffer
            if node.op != "input":
                self.program.buffers.append(buffer)
        return self.buffers[node]

    def _weight(self, node: Node, layout: str) -> Weight:
        """A tensor that one kernel reads as a table and another value by value is stored in both layouts."""
        if (node, layout) not in self.weights:
            name = node.attrs["name"] if node.op == "parameter" else node.name
            if any(weight.name == name for weight in self.weights.values()):
                name = f"{name}#{layout}"
            self.weights[node, layout] = Weight(name, node, layout, len(self.weights))
        return self.weights[node, layout]

    def _lifetimes(self) -> None:
        written: set[Buffer] = set()
        for index, call in enumerate(self.program.calls):
            for buffer in call.outputs:
                buffer.first = buffer.first if buffer in written else index
                buffer.last = index
                written.add(buffer)
            for operand in call.operands:
                operand.buffer.last = index
        self.program.logits.last = len(self.program.calls)


def _buffer_name(node: Node) -> str:
    """What a reader would call a value: the module that made it, and the op where that says more."""
    module = re.sub(r"\W+", "_", node.origin.rsplit(".", 1)[-1]).strip("_")
    if node.op in ("linear", "embedding", "grouped_linear"):
        return module or node.op
    return "_".join(part for part in (module, node.op) if part and not part.isdigit())


def _is_computed(node: Node) -> bool:
    return node.is_row_op and node.op not in FREE
