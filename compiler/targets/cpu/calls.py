"""Print the calls of a program in C++."""

from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import Node
from pagedc.compiler.layer_table import STEP_INPUTS
from pagedc.compiler.program import Buffer, Call, Program
from pagedc.compiler.targets.cpu import cpp
from pagedc.compiler.targets.cpu.cpp import float_literal
from pagedc.compiler.targets.cpu.mixers import Mixers
from pagedc.compiler.targets.emitter import Emitter, LayerLoop
from pagedc.kernels.cpu.layout import parse_format


class CallPrinter(Emitter):
    """All threads run every line; `scratch` collects the memory that the kernels ask for."""

    comment = "//"
    reserved = cpp.KEYWORDS | {
        "s",
        "t",
        "layer",
        "row",
        "linear",
        "embedding",
        "attention",
        "causal_conv",
        "linear_recurrence",
        "running_max",
        "grouped_linear",
        "select_rows",
        "sample",
    }

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.mixers = Mixers(program)
        self.scratch: dict[str, None] = {}  # expressions of bytes

    def print_loop(self, loop: LayerLoop) -> list[str]:
        """A `for`, with a `switch` where there are several functions."""
        head = f"for (const {loop.struct}& row : {loop.table})"
        if len(loop.functions) == 1:
            return [f"{head} {loop.functions[0].name}(s, row);"]
        cases = [f"  case {i}: {function.name}(s, row); break;" for i, function in enumerate(loop.functions)]
        return [f"{head} switch (row.kind) {{", *cases, "}"]

    def print_sample(self, logits: str) -> str:
        """One call of the sampler."""
        return f"sample<VOCAB_SIZE>(s.worker, s.batch, {logits}, VOCAB_SIZE, s.model.scratch.data());"

    def declaration(self, name: str, buffer: Buffer, place: str) -> str:
        """A pointer."""
        ctype = cpp.TYPES[buffer.dtype]
        return f"{ctype}* const {name} = s.{buffer.domain}<{ctype}>({place});"

    def start_rows(self) -> list[str]:
        """Steps that end in the middle of prompts have none."""
        return ["if (s.num_rows == 0) return;"]

    def before_head(self, head: Call) -> list[str]:
        """Copy them out, where they are wanted."""
        operand = head.operands[0]
        x = self._operand(head, 0, {"in0": str(operand.buffer.offset)})
        strides = f"{operand.buffer.width}, {head.constants['k']}"
        return [
            "if (s.batch.hidden_out) {  // hidden states are wanted too, or instead of tokens",
            f"  widen_rows(s.worker, s.batch, {x}, {strides}, s.batch.hidden_out);",
            "  if (s.batch.skip_head) return;",
            "}",
        ]

    def print_call(self, call: Call, text: dict[str, str]) -> list[str]:
        """The kernel's lines, and a barrier."""
        print_kind = {
            "embedding": self._embedding,
            "linear": self._linear,
            "grouped_linear": self._grouped_linear,
            "attention": self._attention,
            "causal_conv": self._causal_conv,
            "linear_recurrence": self._linear_recurrence,
            "running_max": self._running_max,
            "rows": self._rows,
            "select_rows": self._select_rows,
        }[call.kind]
        return [*print_kind(call, text), "s.worker.barrier();"]

    def _embedding(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        kernel = f"embedding<{_format(call)}, {c['rows']}, {c['width']}>"
        ids = self._operand(call, 0, text)
        out = self.output(call, 0, text)
        first, last = (f"count * {end} / s.worker.size" for end in ("s.worker.rank", "(s.worker.rank + 1)"))
        return [
            "{",
            f"  const int64_t count = s.num_tokens * {c['count']};",
            f"  {kernel}({first}, {last}, {ids}, s.weight({text['w0']}), {out}, {c['width']});",
            "}",
        ]

    def _linear(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        stripes = f", {c['stripes']}" if "stripes" in c else ""
        kernel = f"linear<{_format(call)}, {c['n']}, {c['k']}{stripes}>"
        stride = call.operands[0].buffer.width if c["count"] == 1 else c["k"]
        count = _count(call.outputs[0]) + (f" * {c['count']}" if c["count"] > 1 else "")
        x = self._operand(call, 0, text)
        head = f"{kernel}(s.worker, {count}, {x}, {stride}, s.weight({text['w0']}),"
        if "epilogue" in c:
            return [
                f"{head} [&](int64_t t, int n, const float* acc, int count) {{",
                *self._epilogue(call, text),
                "});",
            ]
        return [f"{head} StoreRows<{c['n']}>{{{self.output(call, 0, text)}}});"]

    def _epilogue(self, call: Call, text: dict[str, str]) -> list[str]:
        """The body of a linear's store: the row kernel on a tile of 16; a whole one is unrolled."""
        function = self.functions[call.constants["epilogue"]]
        values = ", ".join(self._row_arguments(call, function.kernel.inputs, text, " + n"))
        return [
            f"  if (count == 16) return {function.name}(16, {values});",
            f"  {function.name}(count, {values});",
        ]

    def _rows(self, call: Call, text: dict[str, str]) -> list[str]:
        function = self.functions[call.constants["function"]]
        values = ", ".join(self._row_arguments(call, function.kernel.inputs, text))
        return [
            f"for_tokens(s.worker, {_count(call.outputs[0])}, [&](int64_t t) {{",
            f"  {function.name}({values});",
            "});",
        ]

    def _row_arguments(
        self, call: Call, inputs: list[Node], text: dict[str, str], column: str = ""
    ) -> list[str]:
        """What a row kernel is given for token `t`, moved to a column of what has several."""
        values = []
        for node, (kind, index) in zip(inputs, call.inputs, strict=True):
            shift = column if node.size > 1 else ""
            if kind == "a":
                values.append("acc")
            elif kind == "w":
                values.append(f"s.values<{cpp.TYPES[node.dtype]}>({text[f'w{index}']}){shift}")
            else:
                stride = call.operands[index].buffer.width
                values.append(f"{self._operand(call, index, text)} + t * {stride}{shift}")
        for position, buffer in enumerate(call.outputs):
            values.append(f"{self.output(call, position, text)} + t * {buffer.width}{column}")
        return values

    def _grouped_linear(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        kernel = f"grouped_linear<{_format(call)}, {c['experts']}, {c['n']}, {c['k']}>"
        slot_stride = 0 if c["shared_x"] else c["k"]
        x, ids, out = self._operand(call, 0, text), self._operand(call, 1, text), self.output(call, 0, text)
        sizes = f"{c['experts']}, {c['top_k']}, options->num_threads, options->max_num_tokens"
        self.scratch[f"grouped_linear_scratch_bytes({sizes})"] = None
        strides = f"{call.operands[0].buffer.width}, {slot_stride}"
        return [
            f"{kernel}(s.worker, s.num_tokens, {c['top_k']}, {ids}, {x}, {strides},",
            f"    s.weight({text['w0']}), s.model.scratch.data(), StoreRows<{c['n']}>{{{out}}});",
        ]

    def _attention(self, call: Call, text: dict[str, str]) -> list[str]:
        config = self.mixers.name_of(call)
        out_type = cpp.TYPES[call.outputs[0].dtype]
        qkv = [f"{self._operand(call, i, text)}, {call.operands[i].buffer.width}" for i in range(3)]
        tables = iter(f"s.values<float>({text[f'w{i}']})" for i in range(len(call.weights)))
        sinks = next(tables) if call.constants["has_sinks"] else "nullptr"
        optional = [next(tables)] if call.constants["has_slopes"] else []
        if "extent" in call.constants:
            x = f"{self._operand(call, 3, text)}, {call.operands[3].buffer.width}"
            sizes = f"{call.constants['rank']}, {call.constants['extent']}"
            optional = [*(optional or ["nullptr"]), f"DistanceBias{{{x}, {next(tables)}, {sizes}}}"]
        out = ", ".join([self.output(call, 0, text), str(call.outputs[0].width), *optional])
        self.scratch[f"attention_scratch_bytes<{config}, KV>(options->num_threads)"] = None
        return [
            f"attention<{config}, KV, {out_type}>(s.worker, s.batch, {', '.join(qkv)}, {sinks},",
            f"    s.model.kv_cache[{text['kv']}].data(), s.model.scratch.data(), {out});",
        ]

    def _causal_conv(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        ((x, stride), (weight, _)), out = self._stateful_inputs(call, text), self.output(call, 0, text)
        return [
            f"causal_conv<{c['channels']}, {c['taps']}>(s.worker, s.batch, {x}, {stride}, {weight},",
            f"    s.model.state[{text['state']}].data(), {out}, {call.outputs[0].width});",
        ]

    def _running_max(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        inputs = ", ".join(f"{pointer}, {stride}" for pointer, stride in self._stateful_inputs(call, text))
        out = f"{self.output(call, 0, text)}, {call.outputs[0].width}"
        return [
            f"running_max<{c['channels']}>(s.worker, s.batch, {inputs}, {float_literal(c['initial'])},",
            f"    s.model.state[{text['state']}].data(), {out});",
        ]

    def _linear_recurrence(self, call: Call, text: dict[str, str]) -> list[str]:
        name, state = self.mixers.name_of(call), f"s.model.state[{text['state']}].data()"
        inputs = self._stateful_inputs(call, text)
        rows = [f"{{{pointer}, {stride}}}" for pointer, stride in inputs]
        rate = inputs[4][0] if call.constants["has_rate"] else "nullptr"
        beta = rows[-1] if call.constants["is_delta"] else "{}"
        out = f"{self.output(call, 0, text)}, {call.outputs[0].width}"
        return [
            "{",
            f"  const RecurrenceInputs in = {{{', '.join(rows[:4])}, {rate}, {beta}}};",
            f"  linear_recurrence<{name}>(s.worker, s.batch, in, {state}, {out});",
            "}",
        ]

    def _stateful_inputs(self, call: Call, text: dict[str, str]) -> list[tuple[str, int]]:
        """Pointer and stride of each input; 0 where it is the same for all tokens."""
        return [
            (f"s.values<float>({text[f'w{index}']})", 0)
            if kind == "w"
            else (self._operand(call, index, text), call.operands[index].buffer.width)
            for kind, index in call.inputs
        ]

    def _select_rows(self, call: Call, text: dict[str, str]) -> list[str]:
        operand = call.operands[0]
        x, out = self._operand(call, 0, text), self.output(call, 0, text)
        if operand.buffer.width != call.constants["width"] or operand.offset:
            raise InternalError("rows selected from part of a buffer")
        return [f"select_rows(s.worker, s.batch, {x}, {call.constants['width']}, {out});"]

    def _operand(self, call: Call, position: int, text: dict[str, str]) -> str:
        operand = call.operands[position]
        if operand.buffer.name in STEP_INPUTS:
            return f"s.batch.{operand.buffer.name}"
        pointer = self.variable(operand.buffer, text[f"in{position}"])
        return f"{pointer} + {operand.offset}" if operand.offset else pointer


def _format(call: Call) -> str:
    return parse_format(call.weights[0].format).cpp_type


def _count(buffer: Buffer) -> str:
    return "s.num_rows" if buffer.domain == "row" else "s.num_tokens"
