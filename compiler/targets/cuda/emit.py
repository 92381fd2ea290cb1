"""Print a program as model.py."""

from pagedc.compiler.graph import STATEFUL
from pagedc.compiler.layer_table import STEP_INPUTS
from pagedc.compiler.program import Buffer, Call, Program
from pagedc.compiler.render import environment
from pagedc.compiler.targets.cuda.attention_launches import max_blocks_per_seq
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.state_launches import input_names
from pagedc.compiler.targets.emitter import Emitter, LayerLoop
from pagedc.compiler.targets.state import state_bytes, state_calls


def emit(program: Program, kernels: Kernels, arch: str, scratch_bytes: int, counter_bytes: int) -> str:
    """The text of model.py: the same for the same program."""
    sections = _Emitter(program, kernels).sections()
    return (
        environment()
        .get_template("cuda/model.py.jinja")
        .render(
            name=kernels.facts.name,
            version=kernels.facts.version,
            arch=arch,
            token_bytes=program.arena_bytes["token"],
            row_bytes=program.arena_bytes["row"],
            vocab_size=program.logits.width,
            logits_place=program.logits.offset,
            num_weights=len(program.weights),
            max_blocks=max_blocks_per_seq(kernels.facts.limits),
            scratch_bytes=scratch_bytes,
            counter_bytes=counter_bytes,
            block_bytes=kernels.block_bytes(),
            state_bytes=[state_bytes(call) for call in state_calls(program)],
            loops=sections.loops,
            tokens=[
                "# ids that the step before has just chosen",
                'step.run("known_tokens")',
                *sections.tokens,
            ],
            rows=sections.rows,
        )
    )


class _Emitter(Emitter):
    comment = "#"
    reserved = ("step", "layer", "one")

    def __init__(self, program: Program, kernels: Kernels) -> None:
        super().__init__(program)
        self.kernels = kernels

    def start_rows(self) -> list[str]:
        self.forget_variables()  # a function of their own
        return []

    def print_loop(self, loop: LayerLoop) -> list[str]:
        names = [function.name for function in loop.functions]
        row = "one" if "layer" in names else "layer"  # does not hide the function
        lines = [f"for {row} in {loop.table}:"]
        if len(names) == 1:
            return [*lines, f"    {names[0]}(step, {row})"]
        for kind, name in enumerate(names):
            lines.append(f"    {'el' if kind else ''}if {row}.kind == {kind}:")
            lines.append(f"        {name}(step, {row})")
        return lines

    def print_sample(self, logits: str) -> str:
        return _run("sample", {"logits": logits})

    def declaration(self, name: str, buffer: Buffer, place: str) -> str:
        return f"{name} = step.{buffer.domain}({place})"

    def print_call(self, call: Call, text: dict[str, str]) -> list[str]:
        if call.kind == "attention":
            return self._attention(call, text)
        if call.kind in STATEFUL:
            return self._stateful(call, text)
        given = self._rows(call, text) if call.kind == "rows" else self._given(call, text)
        return [_run(self.kernels.name_of(call), given)]

    def _given(self, call: Call, text: dict[str, str]) -> dict[str, str]:
        given: dict[str, str] = {}
        names = ("x",) if "epilogue" in call.constants else ("x", "expert_ids")
        for position, name in enumerate(names[: len(call.operands)]):
            given |= self._operand(call, position, name, text)
        if call.weights:
            given["weight"] = _weight(0, text)
        given["out"] = self.output(call, 0, text)
        if "epilogue" in call.constants:  # what it reads and writes beside its tile
            given |= self._inputs(call, [f"in{i}" for i in range(len(call.inputs))], text)
            given |= {f"out{i}": self.output(call, i, text) for i in range(1, len(call.outputs))}
        return given

    def _rows(self, call: Call, text: dict[str, str]) -> dict[str, str]:
        given = self._inputs(call, [f"in{i}" for i in range(len(call.inputs))], text)
        kernel, store = self.functions[call.constants["function"]].kernel, call.constants.get("cache")
        positions = [i for i in range(len(kernel.outputs)) if store is None or i != store.k]
        for index, position in enumerate(positions):
            given[f"out{position}"] = self.output(call, index, text)
        return given | (_cache(text) if store else {})

    def _attention(self, call: Call, text: dict[str, str]) -> list[str]:
        number = self.kernels.name_of(call)
        cache = _cache(text)
        q, *kv = (self._operand(call, i, name, text) for i, name in enumerate("qkv"[: len(call.operands)]))
        given = {**q, **cache, "out": self.output(call, 0, text)}
        store = [_run(f"store_kv_{number}", {**kv[0], **kv[1], **cache})] if kv else []
        tables = (name for name in ("sinks", "slopes") if call.constants[f"has_{name}"])
        given |= {name: _weight(i, text) for i, name in enumerate(tables)}
        return [
            *store,
            "if step.decodes:  # one token of each sequence",
            "    " + _run(f"attention_decode_{number}", given),
            "else:",
            "    " + _run(f"attention_mixed_{number}", given),
            "    " + _run(f"attention_prefill_{number}", given),
        ]

    def _stateful(self, call: Call, text: dict[str, str]) -> list[str]:
        given = self._inputs(call, input_names(call), text)
        given["state"] = f"step.state({text['state']})"
        given["out"] = self.output(call, 0, text)
        kernel = self.kernels.name_of(call)
        if call.kind != "causal_conv":
            return [_run(kernel, given)]
        return [
            "if step.decodes:",
            "    " + _run(f"causal_conv_decode_{kernel}", given),
            "else:",
            "    " + _run(f"causal_conv_prefill_{kernel}", given),
        ]

    def _inputs(self, call: Call, names: list[str], text: dict[str, str]) -> dict[str, str]:
        """What a call's `inputs` are given, but for a tile."""
        given: dict[str, str] = {}
        for name, (kind, index) in zip(names, call.inputs, strict=True):
            if kind == "w":
                given[name] = _weight(index, text)
            elif kind == "b":
                given |= self._operand(call, index, name, text)
        return given

    def _operand(self, call: Call, position: int, name: str, text: dict[str, str]) -> dict[str, str]:
        """Nothing for an input of the step, which every kernel knows."""
        buffer = call.operands[position].buffer
        return {} if buffer.name in STEP_INPUTS else {name: self.variable(buffer, text[f"in{position}"])}


def _weight(position: int, text: dict[str, str]) -> str:
    return f"step.weight({text[f'w{position}']})"


def _cache(text: dict[str, str]) -> dict[str, str]:
    return {"k_cache": f"step.k_cache({text['kv']})", "v_cache": f"step.v_cache({text['kv']})"}


def _run(name: str, given: dict[str, str]) -> str:
    return f'step.run("{name}", {", ".join(f"{key}={value}" for key, value in given.items())})'
