"""Print a program as model.cpp."""

import re
from collections.abc import Sequence
from typing import Any

from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import STATEFUL
from pagedc.compiler.layer_table import STEP_INPUTS, LayerTable, arguments, call_note, layer_table
from pagedc.compiler.outline import Loop, outline
from pagedc.compiler.program import Buffer, Call, Operand, Program, RowFunction
from pagedc.compiler.render import environment
from pagedc.compiler.targets.cpu.row_printer import CTYPES, print_signature
from pagedc.compiler.targets.cpu.tuned import Tiles
from pagedc.compiler.targets.state import decay_kind, recurrence_key, state_bytes, state_calls
from pagedc.kernels.cpu.layout import parse_format

# Names that a pointer in an emitted function must not hide.
RESERVED = {
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
# Words of C++ that modules may be called by.
# fmt: off
CPP_KEYWORDS = {
    "alignas", "auto", "bool", "case", "catch", "char", "const", "default", "delete", "do",
    "double", "enum", "explicit", "export", "extern", "float", "friend", "goto", "inline", "int",
    "long", "mutable", "namespace", "new", "operator", "override", "private", "protected",
    "public", "register", "requires", "return", "short", "signed", "sizeof", "static", "struct",
    "switch", "template", "this", "throw", "typedef", "typename", "union", "unsigned", "using",
    "virtual", "void", "volatile", "xor",
}
# fmt: on
BLOCK_SIZE = 16  # tokens; kv_cache.h


def emit(
    program: Program, name: str, version: str, level: str, kv_type: str, tiles: Sequence[Tiles] = ()
) -> str:
    """The text of model.cpp: the same for the same program and tiles."""
    return _Emitter(program, kv_type).render(name, version, level, tiles)


def kv_block_bytes(call: Call, kv_type: str) -> int:
    """Bytes of one block of one attention layer, as kv_cache.h lays it out."""
    head_dim, v_head_dim = call.constants["head_dim"], call.constants["v_head_dim"]
    size = 2 if kv_type == "bf16" else 4
    k_dim = head_dim + head_dim % 2 if kv_type == "bf16" else head_dim
    return int(call.constants["num_kv_heads"] * (k_dim + -(-v_head_dim // 16) * 16) * BLOCK_SIZE * size)


class _Emitter:
    def __init__(self, program: Program, kv_type: str) -> None:
        self.program = program
        self.kv_type = kv_type
        self.functions = {function.name: function for function in program.row_functions}
        self.attentions: dict[tuple[Any, ...], str] = {}
        self.recurrences: dict[tuple[Any, ...], str] = {}
        self.scratch: dict[str, None] = {}
        self.pointers: dict[Buffer, str] = {}  # of the function that is being printed
        self.declarations: list[str] = []  # of the call that is being printed

    def render(self, name: str, version: str, level: str, tiles: Sequence[Tiles]) -> str:
        recurrences = self._recurrence_facts()
        forward, loops = self._sections()
        calls = [call for call in self.program.calls if call.kind == "attention"]
        return (
            environment()
            .get_template("cpu/model.cpp.jinja")
            .render(
                name=name,
                version=version,
                level=level,
                kv_type=self.kv_type,
                tiles=tiles,
                token_bytes=self.program.arena_bytes["token"],
                row_bytes=self.program.arena_bytes["row"],
                vocab_size=self.program.logits.width,
                num_weights=len(self.program.weights),
                num_attention_layers=len(calls),
                block_bytes=[
                    kv_block_bytes(call, self.kv_type) for call in sorted(calls, key=lambda call: call.layer)
                ]
                or [0],
                state_kinds={call.kind for call in self.program.calls if call.kind in STATEFUL},
                state_bytes=[state_bytes(call) for call in state_calls(self.program)],
                recurrences=recurrences,
                attentions=[self._attention_facts(call) for call in self._distinct_attentions(calls)],
                row_functions=[self._row_function(function) for function in self.program.row_functions],
                loops=loops,
                forward=forward,
                scratch_bytes=list(self.scratch),
            )
        )

    # Sections.

    def _sections(self) -> tuple[list[str], list[dict[str, Any]]]:
        lines: list[str] = []
        loops: list[dict[str, Any]] = []
        in_rows = False
        for section in outline(self.program.calls):
            if isinstance(section, Loop):
                loop = self._loop(section, len(loops))
                loops.append(loop)
                lines += loop["call"]
                continue
            if section.kind == "select_rows" and not in_rows:
                in_rows = True
                lines.append("  if (s.num_rows == 0) return;")
            if section is self.program.head:
                lines += self._hidden_rows(section)
            lines += self._call(0, section, LayerTable())
        self.declarations = []
        logits = self._pointer(Operand(self.program.logits), "float", str(self.program.logits.offset))
        lines.append("  // the next token of each row")
        lines.append(
            f"  sample<VOCAB_SIZE>(s.worker, s.batch, {logits}, VOCAB_SIZE, s.model.scratch.data());"
        )
        return lines, loops

    def _loop(self, loop: Loop, number: int) -> dict[str, Any]:
        suffix = "" if number == 0 else f"_{number}"
        layers = layer_table(loop)
        functions = []
        for index, calls in enumerate(loop.functions):
            name = f"layer{suffix}" if len(loop.functions) == 1 else f"layer{suffix}_{index}"
            outside, self.pointers = self.pointers, {}
            lines = [
                line for position, call in enumerate(calls) for line in self._call(position, call, layers)
            ]
            self.pointers = outside
            functions.append({"name": name, "lines": lines})
        columns = [(column.name, column.note) for column in layers.columns]
        rows = [[column.values[i] for column in layers.columns] for i in range(len(loop.iterations))]
        table = f"LAYERS{suffix.upper()}"
        if len(functions) > 1:
            columns.append(("kind", "which function"))
            rows = [[*row, kind] for row, kind in zip(rows, loop.kinds, strict=True)]
            call = [f"  for (const Layer{suffix}& row : {table}) switch (row.kind) {{"]
            call += [
                f"    case {i}: {function['name']}(s, row); break;" for i, function in enumerate(functions)
            ]
            call.append("  }")
        else:
            call = [f"  for (const Layer{suffix}& row : {table}) {functions[0]['name']}(s, row);"]
        return {
            "name": f"`layer{suffix}`",
            "struct": f"Layer{suffix}",
            "table": table,
            "columns": [
                {"type": "int", "name": name, "comment": f"  // {note}" if note else ""}
                for name, note in columns
            ],
            "rows": rows,
            "functions": functions,
            "call": call,
        }

    # Calls.

    def _call(self, position: int, call: Call, layers: LayerTable) -> list[str]:
        values = arguments(call)
        text = {argument: layers.spell(position, argument, value) for argument, value in values.items()}
        self.declarations = []
        lines = getattr(self, f"_{call.kind}")(call, text)
        lines = [*self.declarations, *lines]
        comment = [f"  // {call_note(call, in_loop=bool(layers.columns))}"]
        return [*comment, *[f"  {line}" for line in lines], "  s.worker.barrier();"]

    def _embedding(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        kernel = f"embedding<{_cpp_format(call)}, {c['rows']}, {c['width']}>"
        ids = self._operand(call, 0, text)
        out = self._output(call, 0, text)
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
        kernel = f"linear<{_cpp_format(call)}, {c['n']}, {c['k']}{stripes}>"
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
        return [f"{head} StoreRows<{c['n']}>{{{self._output(call, 0, text)}}});"]

    def _epilogue(self, call: Call, text: dict[str, str]) -> list[str]:
        """The body of a linear's store: the row kernel on a tile of 16; a whole one is unrolled."""
        function = self.functions[call.constants["epilogue"]]
        names = []
        operand = weight = 1
        for node, kind in zip(function.kernel.inputs, call.constants["inputs"], strict=True):
            shift = " + n" if node.size > 1 else ""
            if kind == "a":
                names.append("acc")
            elif kind == "w":
                names.append(f"s.values<{CTYPES[node.dtype]}>({text[f'w{weight}']}){shift}")
                weight += 1
            else:
                stride = call.operands[operand].buffer.width
                names.append(f"{self._operand(call, operand, text)} + t * {stride}{shift}")
                operand += 1
        for position, buffer in enumerate(call.outputs):
            names.append(f"{self._output(call, position, text)} + t * {buffer.width} + n")
        values = ", ".join(names)
        return [
            f"  if (count == 16) return {function.name}(16, {values});",
            f"  {function.name}(count, {values});",
        ]

    def _grouped_linear(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        kernel = f"grouped_linear<{_cpp_format(call)}, {c['experts']}, {c['n']}, {c['k']}>"
        slot_stride = 0 if c["shared_x"] else c["k"]
        x, ids, out = self._operand(call, 0, text), self._operand(call, 1, text), self._output(call, 0, text)
        sizes = f"{c['experts']}, {c['top_k']}, options->num_threads, options->max_num_tokens"
        self.scratch[f"grouped_linear_scratch_bytes({sizes})"] = None
        strides = f"{call.operands[0].buffer.width}, {slot_stride}"
        return [
            f"{kernel}(s.worker, s.num_tokens, {c['top_k']}, {ids}, {x}, {strides},",
            f"    s.weight({text['w0']}), s.model.scratch.data(), StoreRows<{c['n']}>{{{out}}});",
        ]

    def _attention(self, call: Call, text: dict[str, str]) -> list[str]:
        config = self._attention_name(call)
        out_type = CTYPES[call.outputs[0].dtype]
        parts = []
        for position in range(3):
            parts.append(f"{self._operand(call, position, text)}, {call.operands[position].buffer.width}")
        tables = iter(f"s.values<float>({text[f'w{i}']})" for i in range(len(call.weights)))
        sinks = next(tables) if call.constants["has_sinks"] else "nullptr"
        slopes = f", {next(tables)}" if call.constants["has_slopes"] else ""
        out = f"{self._output(call, 0, text)}, {call.outputs[0].width}"
        self.scratch[f"attention_scratch_bytes<{config}, KV>(options->num_threads)"] = None
        return [
            f"attention<{config}, KV, {out_type}>(s.worker, s.batch, {', '.join(parts)}, {sinks},",
            f"    s.model.kv_cache[{text['kv']}].data(), s.model.scratch.data(), {out}{slopes});",
        ]

    def _causal_conv(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        ((x, stride), (weight, _)), out = self._inputs(call, text), self._output(call, 0, text)
        return [
            f"causal_conv<{c['channels']}, {c['taps']}>(s.worker, s.batch, {x}, {stride}, {weight},",
            f"    s.model.state[{text['state']}].data(), {out}, {call.outputs[0].width});",
        ]

    def _running_max(self, call: Call, text: dict[str, str]) -> list[str]:
        c = call.constants
        inputs = ", ".join(f"{pointer}, {stride}" for pointer, stride in self._inputs(call, text))
        out = f"{self._output(call, 0, text)}, {call.outputs[0].width}"
        return [
            f"running_max<{c['channels']}>(s.worker, s.batch, {inputs}, {_float(c['initial'])},",
            f"    s.model.state[{text['state']}].data(), {out});",
        ]

    def _linear_recurrence(self, call: Call, text: dict[str, str]) -> list[str]:
        name, state = self.recurrences[recurrence_key(call)], f"s.model.state[{text['state']}].data()"
        inputs = self._inputs(call, text)
        rows = [f"{{{pointer}, {stride}}}" for pointer, stride in inputs]
        rate = inputs[4][0] if call.constants["has_rate"] else "nullptr"
        beta = rows[-1] if call.constants["is_delta"] else "{}"
        out = f"{self._output(call, 0, text)}, {call.outputs[0].width}"
        return [
            "{",
            f"  const RecurrenceInputs in = {{{', '.join(rows[:4])}, {rate}, {beta}}};",
            f"  linear_recurrence<{name}>(s.worker, s.batch, in, {state}, {out});",
            "}",
        ]

    def _inputs(self, call: Call, text: dict[str, str]) -> list[tuple[str, int]]:
        """Pointer and stride of each input of a stateful call; 0 where it is the same for all tokens."""
        inputs = []
        operand = weight = 0
        for kind in call.constants["inputs"]:
            if kind == "w":
                inputs.append((f"s.values<float>({text[f'w{weight}']})", 0))
                weight += 1
            else:
                width = call.operands[operand].buffer.width
                inputs.append((self._operand(call, operand, text), width))
                operand += 1
        return inputs

    def _recurrence_facts(self) -> list[dict[str, Any]]:
        """One for each distinct `Config`, in order of appearance; names them."""
        facts = []
        for call in self.program.calls:
            if call.kind == "linear_recurrence" and recurrence_key(call) not in self.recurrences:
                name = f"Recurrence{len(self.recurrences)}"
                self.recurrences[recurrence_key(call)] = name
                extra = {"name": name, "decay": decay_kind(call), "state_bytes": state_bytes(call)}
                facts.append({**call.constants, **extra, "is_delta": str(call.constants["is_delta"]).lower()})
        return facts

    def _hidden_rows(self, head: Call) -> list[str]:
        operand = head.operands[0]
        x = self._pointer(operand, CTYPES[operand.buffer.dtype], str(operand.buffer.offset))
        strides = f"{operand.buffer.width}, {head.constants['k']}"
        return [
            "  if (s.batch.hidden_out) {  // hidden states are wanted too, or instead of tokens",
            f"    widen_rows(s.worker, s.batch, {x}, {strides}, s.batch.hidden_out);",
            "    if (s.batch.skip_head) return;",
            "  }",
        ]

    def _select_rows(self, call: Call, text: dict[str, str]) -> list[str]:
        operand = call.operands[0]
        x, out = self._operand(call, 0, text), self._output(call, 0, text)
        if operand.buffer.width != call.constants["width"] or operand.offset:
            raise InternalError("rows selected from part of a buffer")
        return [f"select_rows(s.worker, s.batch, {x}, {call.constants['width']}, {out});"]

    def _rows(self, call: Call, text: dict[str, str]) -> list[str]:
        function = self.functions[call.constants["function"]]
        names = []
        operand = weight = 0
        for position, kind in enumerate(call.constants["inputs"]):
            node = function.kernel.inputs[position]
            if kind == "w":
                names.append(f"s.values<{CTYPES[node.dtype]}>({text[f'w{weight}']})")
                weight += 1
            else:
                names.append(
                    f"{self._operand(call, operand, text)} + t * {call.operands[operand].buffer.width}"
                )
                operand += 1
        for position, buffer in enumerate(call.outputs):
            names.append(f"{self._output(call, position, text)} + t * {buffer.width}")
        count = _count(call.outputs[0])
        return [
            f"for_tokens(s.worker, {count}, [&](int64_t t) {{",
            f"  {function.name}({', '.join(names)});",
            "});",
        ]

    # Spelling.

    def _operand(self, call: Call, position: int, text: dict[str, str]) -> str:
        operand = call.operands[position]
        if operand.buffer.name in STEP_INPUTS:
            return f"s.batch.{operand.buffer.name}"
        ctype = CTYPES[operand.buffer.dtype]
        return self._pointer(operand, ctype, text[f"in{position}"])

    def _output(self, call: Call, position: int, text: dict[str, str]) -> str:
        buffer = call.outputs[position]
        return self._pointer(Operand(buffer), CTYPES[buffer.dtype], text[f"out{position}"])

    def _pointer(self, operand: Operand, ctype: str, place: str) -> str:
        offset = f" + {operand.offset}" if operand.offset else ""
        return self._local(operand.buffer, ctype, place) + offset

    def _local(self, buffer: Buffer, ctype: str, place: str) -> str:
        """The variable that points at a buffer, declared where the function first uses it."""
        if buffer not in self.pointers:
            name = buffer.name if buffer.name.isidentifier() else f"value_{buffer.name}"
            if buffer.name in RESERVED | CPP_KEYWORDS:
                name = f"{name}_out"
            taken = set(self.pointers.values())
            self.pointers[buffer] = next(
                unique for unique in (name, *(f"{name}_{i}" for i in range(2, 9999))) if unique not in taken
            )
            declaration = f"{ctype}* const {self.pointers[buffer]} = s.{buffer.domain}<{ctype}>({place});"
            self.declarations.append(declaration)
        return self.pointers[buffer]

    def _row_function(self, function: RowFunction) -> dict[str, Any]:
        origins = list(dict.fromkeys(re.sub(r"\.\d+\b", ".*", origin) for origin in function.origins))
        signature, body = print_signature(function.kernel, function.name), function.body
        if function.width:
            signature = signature.replace("(", "(int count, ", 1).replace("inline", "PAGEDC_INLINE", 1)
            body = body.replace(f" < {function.width};", " < count;")
        return {"origins": origins, "signature": signature, "body": body}

    def _attention_name(self, call: Call) -> str:
        key = tuple(sorted(call.constants.items()))
        return self.attentions.setdefault(key, f"Attention{len(self.attentions)}")

    def _distinct_attentions(self, calls: list[Call]) -> list[Call]:
        found: dict[str, Call] = {}
        for call in calls:
            found.setdefault(self._attention_name(call), call)
        return list(found.values())

    def _attention_facts(self, call: Call) -> dict[str, Any]:
        facts = dict(call.constants)
        facts["scale"], facts["softcap"] = (_float(facts[name]) for name in ("scale", "softcap"))
        facts["name"] = self._attention_name(call)
        facts["has_sinks"] = str(facts["has_sinks"]).lower()
        facts["block_bytes"] = kv_block_bytes(call, self.kv_type)
        return facts


def _float(number: float) -> str:
    text = f"{number:.9g}"
    return f"{text}f" if any(character in text for character in ".e") else f"{text}.0f"


def _cpp_format(call: Call) -> str:
    return parse_format(call.weights[0].format).cpp_type


def _count(buffer: Buffer) -> str:
    return "s.num_rows" if buffer.domain == "row" else "s.num_tokens"
