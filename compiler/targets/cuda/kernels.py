"""The kernels of a program: for each distinct call, what it launches for each size of a step.

Parameters that model.py gives are named here (`x`, `weight`, `out`, …); `token_ids`, `positions`,
`slot_mapping`, `block_tables`, `context_lens`, `query_start_loc`, `state_slots`, `logits_rows`, `scratch` and
`counters` are the step's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pagedc.compiler.layer_table import STEP_INPUTS
from pagedc.compiler.program import Buffer, Call, Program, RowFunction
from pagedc.compiler.targets.base import Facts
from pagedc.compiler.targets.cuda.attention_launches import AttentionLaunches, kv_block_bytes
from pagedc.compiler.targets.cuda.cache_stores import fuse_cache_stores
from pagedc.compiler.targets.cuda.configs import Configs, triton_module
from pagedc.compiler.targets.cuda.epilogue_printer import extra_arguments, print_epilogue
from pagedc.compiler.targets.cuda.launch_table import Arguments, Dimension, Kernel
from pagedc.compiler.targets.cuda.row_launch import RowLaunch, row_argument
from pagedc.compiler.targets.cuda.rows_file import print_row_kernel
from pagedc.compiler.targets.cuda.sample import sample
from pagedc.compiler.targets.cuda.state_launches import launch_conv, launch_maximum, launch_recurrence
from pagedc.compiler.targets.cuda.weight_layout import parts_of

Launches = Any  # list[Launch] of kernels/triton/launch.py, which a compile for a CPU does not import


@dataclass(slots=True)
class Kernels:
    """Names each distinct call of a program, whose row kernels it gives the stores of keys and values."""

    program: Program
    facts: Facts
    configs: Configs
    pdl: bool
    kernels: dict[str, Kernel] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)  # functions of rows.py, by name
    _names: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _functions: dict[str, RowFunction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fuse_cache_stores(self.program)
        self._functions = {function.name: function for function in self.program.row_functions}
        for call in self.program.calls:
            self.name_of(call)
        self._add("known_tokens", "T", self._known_tokens)
        self._add("sample", "R", self._sample)

    def name_of(self, call: Call) -> str:
        """What model.py calls the kernel; of an attention or a convolution, the number behind its kernels'
        names.
        """
        if call.key not in self._names:
            self._names[call.key] = self._register(call)
        return self._names[call.key]

    def block_bytes(self) -> list[tuple[int, int]]:
        """Of each layer's keys and values."""
        calls = [call for call in self.program.calls if call.kind == "attention"]
        return [
            kv_block_bytes(call, self.facts.kv_dtype) for call in sorted(calls, key=lambda call: call.layer)
        ]

    def _add(self, name: str, dimension: Dimension, make: Any) -> str:
        unique, count = name, 1
        while unique in self.kernels:
            count += 1
            unique = f"{name}_{count}"
        self.kernels[unique] = Kernel(unique, dimension, make)
        return unique

    def _register(self, call: Call) -> str:
        c = call.constants
        dimension = dimension_of(call.outputs[0])
        match call.kind:
            case "rows":
                return self._add(self._rows_name(call), dimension, lambda a, n: self._rows(call, a, n))
            case "embedding":
                return self._add("embedding", dimension, lambda a, n: self._embedding(call, a, n))
            case "linear":
                name = f"linear_{c['n']}x{c['k']}"
                if "epilogue" in c:
                    name = f"{name}_{self._epilogue_name(call)}"
                return self._add(name, dimension, lambda a, n: self._linear(call, a, n))
            case "grouped_linear":
                name = f"grouped_linear_{c['experts']}x{c['n']}x{c['k']}"
                return self._add(name, dimension, lambda a, n: self._grouped_linear(call, a, n))
            case "select_rows":
                return self._add("select_rows", "R", lambda a, n: self._select_rows(call, a, n))
            case "causal_conv":
                return self._register_conv(call)
            case "linear_recurrence":
                return self._add(
                    "linear_recurrence", "S", lambda a, n: launch_recurrence(call, a, n, pdl=self.pdl)
                )
            case "running_max":
                return self._add("running_max", "S", lambda a, n: launch_maximum(call, a, n, pdl=self.pdl))
        return self._register_attention(call)

    def _register_attention(self, call: Call) -> str:
        def launches() -> AttentionLaunches:
            """With the configs of the moment: a tuner changes them."""
            return AttentionLaunches(call, self.facts, self.configs, self.pdl)

        number = str(sum(name.startswith("attention_decode") for name in self.kernels))
        if len(call.operands) == 3:
            self._add(f"store_kv_{number}", "T", lambda a, n: launches().store_kv(a, n))
        self._add(f"attention_decode_{number}", "S", lambda a, n: launches().decode(a, n))
        self._add(f"attention_mixed_{number}", "S", lambda a, n: launches().mixed(a, n))
        self._add(f"attention_prefill_{number}", "T", lambda a, n: launches().prefill(a, n))
        return number

    def _register_conv(self, call: Call) -> str:
        def decode(arguments: Arguments, size: int) -> Launches:
            return launch_conv(call, arguments, size, size, decodes=True, pdl=self.pdl)

        def prefill(arguments: Arguments, size: int) -> Launches:
            num_seqs = self.facts.limits.max_num_seqs
            return launch_conv(call, arguments, size, num_seqs, decodes=False, pdl=self.pdl)

        number = str(sum(name.startswith("causal_conv_decode") for name in self.kernels))
        self._add(f"causal_conv_decode_{number}", "S", decode)
        self._add(f"causal_conv_prefill_{number}", "T", prefill)
        return number

    # Launches.

    def _rows(self, call: Call, arguments: Arguments, size: int) -> Launches:
        kernel, store = self._functions[call.constants["function"]].kernel, call.constants.get("cache")
        name, dtype = self._rows_name(call), self.facts.kv_dtype
        return [RowLaunch(name, kernel, arguments, size, self.pdl, store, dtype)]

    def _rows_name(self, call: Call) -> str:
        """The printed row kernel: with the stores of keys and values, where it has them."""
        function, store = self._functions[call.constants["function"]], call.constants.get("cache")

        def text(name: str) -> str:
            return print_row_kernel(name, function.kernel, function.origins, store)

        return self._print(f"{function.name}_kv" if store else function.name, store, text)

    def _print(self, name: str, key: Any, text: Callable[[str], str]) -> str:
        """The name of a printed function: `name`, with a number where others of another key have it."""
        known = ("printed", name, key)
        if known not in self._names:
            same = sum(other[:2] == known[:2] for other in self._names)
            unique = self._names[known] = f"{name}_{same + 1}" if same else name
            self.printed[unique] = text(unique)
        return self._names[known]

    def _embedding(self, call: Call, arguments: Arguments, size: int) -> Launches:
        embedding = triton_module("embedding")
        c = call.constants
        size *= c["count"]
        spec = embedding.EmbeddingSpec(
            vocab_size=c["rows"], width=c["width"], weight_format=call.weights[0].format
        )
        ids = self._operand(arguments, call, 0, (size,))
        out = self._output(arguments, call.outputs[0], (size, c["width"]))
        weight = self._weight(arguments, call)
        return embedding.launch_embedding(
            spec, self.configs.of("embedding", spec, size), ids, weight, out, pdl=self.pdl
        )

    def _linear(self, call: Call, arguments: Arguments, size: int) -> Launches:
        linear = triton_module("linear")
        c = call.constants
        stride = call.operands[0].buffer.width if c["count"] == 1 else c["k"]
        size *= c["count"]
        spec = self.configs.linear_spec(c["n"], c["k"], call.weights[0].format)
        config = self.configs.of("linear", spec, size)
        partials, counters = linear.scratch_sizes(spec, config, size)
        scratch: tuple[Any, ...] = ()
        if partials:
            scratch = (
                arguments.tensor("scratch", (partials,), "float32"),
                arguments.tensor("counters", (counters,), "int32"),
            )
        x = self._operand(arguments, call, 0, (size, c["k"]), stride)
        out = self._output(arguments, call.outputs[0], (size, c["n"]))
        return linear.launch_linear(
            spec,
            config,
            x,
            self._weight(arguments, call),
            out,
            *scratch,
            **self._epilogue(call, arguments, size),
            pdl=self.pdl,
        )

    def _epilogue_name(self, call: Call) -> str:
        """The printed epilogue of a linear: the row kernel, and which of its inputs is the tile."""
        c = call.constants
        function = self._functions[c["epilogue"]]

        def text(name: str) -> str:
            return print_epilogue(name, function.kernel, c["inputs"], c.get("stripes", 1), function.origins)

        return self._print(function.name, c["inputs"], text)

    def _epilogue(self, call: Call, arguments: Arguments, size: int) -> dict[str, Any]:
        c = call.constants
        if "epilogue" not in c:
            return {}
        kernel = self._functions[c["epilogue"]].kernel
        extra = extra_arguments(kernel, c["inputs"])
        function = SimpleNamespace(fn=SimpleNamespace(__module__="rows", __name__=self._epilogue_name(call)))
        tensors = tuple(row_argument(arguments, node, name, size) for node, name in extra.items())
        return {"epilogue": function, "extra": tensors}

    def _grouped_linear(self, call: Call, arguments: Arguments, size: int) -> Launches:
        grouped_linear = triton_module("grouped_linear")
        c = call.constants
        spec = grouped_linear.GroupedSpec(
            experts=c["experts"],
            n=c["n"],
            k=c["k"],
            top_k=c["top_k"],
            shared_x=c["shared_x"],
            weight_format=call.weights[0].format,
        )
        rows, stride = size * c["top_k"], c["k"]
        if c["shared_x"]:
            rows, stride = size, call.operands[0].buffer.width
        x = self._operand(arguments, call, 0, (rows, c["k"]), stride)
        ids = self._operand(arguments, call, 1, (size, c["top_k"]))
        out = self._output(arguments, call.outputs[0], (size * c["top_k"], c["n"]))
        config = self.configs.of("grouped_linear", spec, size)
        cells = grouped_linear.scratch_ints(spec, config, size)
        scratch = arguments.tensor("scratch", (cells,), "int32")
        weight = self._weight(arguments, call)
        return grouped_linear.launch_grouped_linear(spec, config, x, ids, weight, out, scratch, pdl=self.pdl)

    def _select_rows(self, call: Call, arguments: Arguments, size: int) -> Launches:
        width = call.constants["width"]
        x = self._operand(arguments, call, 0, (1, width), call.operands[0].buffer.width)
        rows = arguments.tensor("logits_rows", (size,), "int32")
        out = self._output(arguments, call.outputs[0], (size, width))
        return triton_module("select_rows").launch_select_rows(x, rows, out, pdl=self.pdl)

    def _known_tokens(self, arguments: Arguments, size: int) -> Launches:
        ids = arguments.tensor("token_ids", (size,), "int32")
        chosen = arguments.tensor("token_ids_out", (size,), "int32")
        return triton_module("known_tokens").launch_known_tokens(ids, chosen, pdl=self.pdl)

    def _sample(self, arguments: Arguments, size: int) -> Launches:
        return sample(self.program.logits.width, self.configs, arguments, size, self.pdl)

    # Arguments.

    def _operand(
        self,
        arguments: Arguments,
        call: Call,
        position: int,
        shape: tuple[int, ...],
        stride: int | None = None,
    ) -> Any:
        operand = call.operands[position]
        name = operand.buffer.name if operand.buffer.name in STEP_INPUTS else ("x", "expert_ids")[position]
        return arguments.tensor(name, shape, operand.buffer.dtype, stride=stride, offset=operand.offset)

    def _output(self, arguments: Arguments, buffer: Buffer, shape: tuple[int, ...]) -> Any:
        return arguments.tensor("out", shape, buffer.dtype)

    def _weight(self, arguments: Arguments, call: Call) -> Any:
        weight = call.weights[0]
        tensors = {
            part.name: arguments.tensor(
                "weight", part.shape, part.dtype, start=part.start, stride=part.stride
            )
            for part in parts_of(weight.format, weight.shape)
        }
        return triton_module("weights").WeightTensors(**tensors)


def dimension_of(buffer: Buffer) -> Dimension:
    """What a kernel that fills this buffer has a row of."""
    return "R" if buffer.domain == "row" else "T"
