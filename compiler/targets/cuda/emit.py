"""Print a program as model.py."""

from typing import Any

from pagedc.compiler.graph import STATEFUL
from pagedc.compiler.layer_table import STEP_INPUTS, LayerTable, arguments, call_note, layer_table
from pagedc.compiler.outline import Loop, outline
from pagedc.compiler.program import Buffer, Call, Program, RowFunction
from pagedc.compiler.render import environment
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.state_launches import input_names
from pagedc.compiler.targets.state import state_bytes, state_calls


def emit(program: Program, kernels: Kernels, arch: str, scratch_bytes: int, counter_bytes: int) -> str:
    """The text of model.py: the same for the same program."""
    return _Emitter(program, kernels).render(arch, scratch_bytes, counter_bytes)


class _Emitter:
    def __init__(self, program: Program, kernels: Kernels) -> None:
        self.program = program
        self.kernels = kernels
        self.functions = {function.name: function for function in program.row_functions}
        self.names: dict[Buffer, str] = {}  # of the function that is being printed
        self.lines: list[str] = []  # of the call that is being printed

    def render(self, arch: str, scratch_bytes: int, counter_bytes: int) -> str:
        tokens, rows, loops = self._sections()
        facts = self.kernels.facts
        return (
            environment()
            .get_template("cuda/model.py.jinja")
            .render(
                name=facts.name,
                version=facts.version,
                arch=arch,
                token_bytes=self.program.arena_bytes["token"],
                row_bytes=self.program.arena_bytes["row"],
                vocab_size=self.program.logits.width,
                logits_place=self.program.logits.offset,
                num_weights=len(self.program.weights),
                max_blocks=self.kernels.max_blocks_per_seq,
                scratch_bytes=scratch_bytes,
                counter_bytes=counter_bytes,
                block_bytes=self.kernels.block_bytes(),
                state_bytes=[state_bytes(call) for call in state_calls(self.program)],
                loops=loops,
                tokens=tokens,
                rows=rows,
            )
        )

    def _sections(self) -> tuple[list[str], list[str], list[dict[str, Any]]]:
        tokens = ["# ids that the step before has just chosen", 'step.run("known_tokens")']
        rows: list[str] = []
        loops: list[dict[str, Any]] = []
        for section in outline(self.program.calls):
            if isinstance(section, Loop):
                loop = self._loop(section, len(loops))
                loops.append(loop)
                tokens += loop["call"]
                continue
            if section.outputs[0].domain == "row":
                if not rows:
                    self.names = {}
                rows += self._call(0, section, LayerTable())
            else:
                tokens += self._call(0, section, LayerTable())
        self.lines = []
        logits = self._buffer(self.program.logits, str(self.program.logits.offset))
        rows += [*self.lines, "# the next token of each row", f'step.run("sample", logits={logits})']
        return tokens, rows, loops

    def _loop(self, loop: Loop, number: int) -> dict[str, Any]:
        suffix = "" if number == 0 else f"_{number}"
        layers = layer_table(loop)
        functions = []
        for index, calls in enumerate(loop.functions):
            name = f"layer{suffix}" if len(loop.functions) == 1 else f"layer{suffix}_{index}"
            outside, self.names = self.names, {}
            lines = [
                line for position, call in enumerate(calls) for line in self._call(position, call, layers)
            ]
            self.names = outside
            functions.append({"name": name, "lines": lines})
        columns = [{"name": column.name, "note": column.note} for column in layers.columns]
        rows = [[column.values[i] for column in layers.columns] for i in range(len(loop.iterations))]
        table = f"LAYERS{suffix.upper()}"
        call = [f"for layer in {table}:"]
        if len(functions) > 1:
            columns.append({"name": "kind", "note": "which function"})
            rows = [[*row, kind] for row, kind in zip(rows, loop.kinds, strict=True)]
            for index, function in enumerate(functions):
                call.append(f"    {'el' if index else ''}if layer.kind == {index}:")
                call.append(f"        {function['name']}(step, layer)")
        else:
            call.append(f"    layer{suffix}(step, layer)")
        if "layer" in [function["name"] for function in functions]:
            call = [
                line.replace("for layer in", "for one in").replace("step, layer", "step, one")
                for line in call
            ]
        return {
            "name": f"`layer{suffix}`",
            "struct": f"Layer{suffix}",
            "table": table,
            "columns": columns,
            "rows": rows,
            "functions": functions,
            "call": call,
        }

    # Calls.

    def _call(self, position: int, call: Call, layers: LayerTable) -> list[str]:
        values = arguments(call)
        text = {argument: layers.spell(position, argument, value) for argument, value in values.items()}
        self.lines = []
        if call.kind == "attention":
            lines = self._attention(call, text)
        elif call.kind in STATEFUL:
            lines = self._stateful(call, text)
        else:
            lines = [self._run(call, text)]
        return [f"# {call_note(call, in_loop=bool(layers.columns))}", *self.lines, *lines]

    def _run(self, call: Call, text: dict[str, str]) -> str:
        given = self._rows(call, text) if call.kind == "rows" else self._given(call, text)
        return _run(self.kernels.name_of(call), given)

    def _given(self, call: Call, text: dict[str, str]) -> dict[str, str]:
        given: dict[str, str] = {}
        names = ("x",) if "epilogue" in call.constants else ("x", "expert_ids")
        for position, name in enumerate(names[: len(call.operands)]):
            given |= self._operand(call, position, name, text)
        if call.weights:
            given["weight"] = f"step.weight({text['w0']})"
        given["out"] = self._buffer(call.outputs[0], text["out0"])
        return given | (self._epilogue(call, text) if "epilogue" in call.constants else {})

    def _epilogue(self, call: Call, text: dict[str, str]) -> dict[str, str]:
        """What the epilogue of a linear reads and writes beside its tile."""
        given: dict[str, str] = {}
        operand = weight = 1  # the linear's own come first
        for position, kind in enumerate(call.constants["inputs"]):
            if kind == "w":
                given[f"in{position}"] = f"step.weight({text[f'w{weight}']})"
                weight += 1
            elif kind == "b":
                given |= self._operand(call, operand, f"in{position}", text)
                operand += 1
        for position, buffer in enumerate(call.outputs[1:], 1):
            given[f"out{position}"] = self._buffer(buffer, text[f"out{position}"])
        return given

    def _rows(self, call: Call, text: dict[str, str]) -> dict[str, str]:
        function: RowFunction = self.functions[call.constants["function"]]
        given: dict[str, str] = {}
        operand = weight = 0
        for position, kind in enumerate(call.constants["inputs"]):
            if function.kernel.inputs[position].op == "input":
                operand += 1
            elif kind == "w":
                given[f"in{position}"] = f"step.weight({text[f'w{weight}']})"
                weight += 1
            else:
                given |= self._operand(call, operand, f"in{position}", text)
                operand += 1
        store = call.constants.get("cache")
        positions = (i for i in range(len(function.kernel.outputs)) if store is None or i != store.k)
        for index, (position, buffer) in enumerate(zip(positions, call.outputs, strict=True)):
            given[f"out{position}"] = self._buffer(buffer, text[f"out{index}"])
        return given | (_cache(text) if store else {})

    def _attention(self, call: Call, text: dict[str, str]) -> list[str]:
        number = self.kernels.name_of(call)
        cache = _cache(text)
        q, *kv = (self._operand(call, i, name, text) for i, name in enumerate("qkv"[: len(call.operands)]))
        given = {**q, **cache, "out": self._buffer(call.outputs[0], text["out0"])}
        store = [_run(f"store_kv_{number}", {**kv[0], **kv[1], **cache})] if kv else []
        tables = (name for name in ("sinks", "slopes") if call.constants[f"has_{name}"])
        given |= {name: f"step.weight({text[f'w{i}']})" for i, name in enumerate(tables)}
        return [
            *store,
            "if step.decodes:  # one token of each sequence",
            "    " + _run(f"attention_decode_{number}", given),
            "else:",
            "    " + _run(f"attention_mixed_{number}", given),
            "    " + _run(f"attention_prefill_{number}", given),
        ]

    def _stateful(self, call: Call, text: dict[str, str]) -> list[str]:
        given: dict[str, str] = {}
        operand = weight = 0
        for name, kind in zip(input_names(call), call.constants["inputs"], strict=True):
            if kind == "w":
                given[name] = f"step.weight({text[f'w{weight}']})"
                weight += 1
            else:
                given |= self._operand(call, operand, name, text)
                operand += 1
        given["state"] = f"step.state({text['state']})"
        given["out"] = self._buffer(call.outputs[0], text["out0"])
        kernel = self.kernels.name_of(call)
        if call.kind != "causal_conv":
            return [_run(kernel, given)]
        return [
            "if step.decodes:",
            "    " + _run(f"causal_conv_decode_{kernel}", given),
            "else:",
            "    " + _run(f"causal_conv_prefill_{kernel}", given),
        ]

    # Spelling.

    def _operand(self, call: Call, position: int, name: str, text: dict[str, str]) -> dict[str, str]:
        buffer = call.operands[position].buffer
        if buffer.name in STEP_INPUTS:
            return {}
        return {name: self._buffer(buffer, text[f"in{position}"])}

    def _buffer(self, buffer: Buffer, place: str) -> str:
        """The variable that stands for a buffer, assigned where the function first uses it."""
        if buffer not in self.names:
            name = buffer.name if buffer.name.isidentifier() else f"value_{buffer.name}"
            name = f"{name}_out" if name in ("step", "layer", "one") else name
            taken = set(self.names.values())
            self.names[buffer] = next(
                unique for unique in (name, *(f"{name}_{i}" for i in range(2, 9999))) if unique not in taken
            )
            self.lines.append(f"{self.names[buffer]} = step.{buffer.domain}({place})")
        return self.names[buffer]


def _cache(text: dict[str, str]) -> dict[str, str]:
    return {"k_cache": f"step.k_cache({text['kv']})", "v_cache": f"step.v_cache({text['kv']})"}


def _run(name: str, given: dict[str, str]) -> str:
    return f'step.run("{name}", {", ".join(f"{key}={value}" for key, value in given.items())})'
