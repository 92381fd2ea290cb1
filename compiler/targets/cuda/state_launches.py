"""What calls that carry state from token to token launch, and what model.py names their inputs."""

from typing import Any

from pagedc.compiler.layer_table import STEP_INPUTS
from pagedc.compiler.program import Call
from pagedc.compiler.targets.cuda.configs import triton_module
from pagedc.compiler.targets.cuda.launch_table import Arguments
from pagedc.compiler.targets.state import decay_kind, state_bytes

Launches = Any  # list[Launch] of kernels/triton/launch.py


def input_names(call: Call) -> list[str]:
    """Of each input, as the kernels call it; an input of the step has its own name."""
    c = call.constants
    if call.kind == "causal_conv":
        names = ["x", "weight"]
    elif call.kind == "running_max":
        names = ["fade", "x"]
    else:
        names = ["q", "k", "v", "decay", *["rate"] * c["has_rate"], *["beta"] * c["is_delta"]]
    for position, (kind, index) in enumerate(call.inputs):
        if kind == "b" and (name := call.operands[index].buffer.name) in STEP_INPUTS:
            names[position] = name
    return names


def launch_conv(
    call: Call, arguments: Arguments, size: int, num_seqs: int, *, decodes: bool, pdl: bool
) -> Launches:
    """A convolution of `size` tokens of `num_seqs` sequences."""
    module = triton_module("causal_conv")
    spec = module.ConvSpec(channels=call.constants["channels"], taps=call.constants["taps"])
    x, weight = _inputs(call, arguments, size)
    state, out = _state(call, arguments, num_seqs), _output(call, arguments, size)
    config = module.defaults(spec, decodes=decodes)
    return module.launch_causal_conv(spec, config, x, weight, state, out, decodes=decodes, pdl=pdl)


def launch_recurrence(call: Call, arguments: Arguments, num_seqs: int, *, pdl: bool) -> Launches:
    """A linear recurrence over the tokens of `num_seqs` sequences."""
    module, c = triton_module("linear_recurrence"), call.constants
    spec = module.RecurrenceSpec(
        heads=c["heads"],
        key_heads=c["key_heads"],
        key_dim=c["key_dim"],
        value_dim=c["value_dim"],
        decay=decay_kind(call),
        is_delta=c["is_delta"],
    )
    q, k, v, decay, *more = _inputs(call, arguments, 1)
    rate = more.pop(0) if c["has_rate"] else None
    beta = more.pop(0) if c["is_delta"] else None
    rows = module.RecurrenceInputs(q=q, k=k, v=v, decay=decay, rate=rate, beta=beta)
    state, out = _state(call, arguments, num_seqs), _output(call, arguments, 1)
    return module.launch_linear_recurrence(spec, module.defaults(spec), rows, state, out, pdl=pdl)


def launch_maximum(call: Call, arguments: Arguments, num_seqs: int, *, pdl: bool) -> Launches:
    """A running maximum over the tokens of `num_seqs` sequences."""
    module, c = triton_module("running_max"), call.constants
    spec = module.RunningMaxSpec(channels=c["channels"], initial=c["initial"])
    fade, x = _inputs(call, arguments, 1)
    state, out = _state(call, arguments, num_seqs), _output(call, arguments, 1)
    return module.launch_running_max(spec, fade, x, state, out, pdl=pdl)


def _inputs(call: Call, arguments: Arguments, size: int) -> list[Any]:
    """Rows of `size` tokens each; a weight's one row is every token's."""
    found = []
    for name, (kind, index) in zip(input_names(call), call.inputs, strict=True):
        if kind == "w":
            found.append(arguments.tensor(name, (1, call.weights[index].node.size), "float32", stride=0))
        else:
            operand = call.operands[index]
            buffer = operand.buffer
            shape = (size, buffer.width - operand.offset)
            found.append(
                arguments.tensor(name, shape, buffer.dtype, stride=buffer.width, offset=operand.offset)
            )
    return found


def _state(call: Call, arguments: Arguments, num_seqs: int) -> Any:
    return triton_module("state").StateInputs(
        state=arguments.tensor("state", (1, state_bytes(call) // 4), "float32"),
        slots=arguments.tensor("state_slots", (num_seqs,), "int32"),
        context_lens=arguments.tensor("context_lens", (num_seqs,), "int32"),
        query_start_loc=arguments.tensor("query_start_loc", (num_seqs + 1,), "int32"),
    )


def _output(call: Call, arguments: Arguments, size: int) -> Any:
    buffer = call.outputs[0]
    return arguments.tensor("out", (size, buffer.width), buffer.dtype)
