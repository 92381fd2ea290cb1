"""Row kernels printed as epilogues of Triton linears, in Triton's interpreter against numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.compiler.small_graphs import Builder
from tests.compiler.targets.cuda.test_rows import imported_text
from tests.kernels.triton.device import DEVICE, tensor

from pagedc.compiler.graph import Node
from pagedc.compiler.lower import lower
from pagedc.compiler.program import Call, Program
from pagedc.compiler.targets.base import Facts
from pagedc.compiler.targets.cuda.configs import Configs
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.row_printer import print_body
from pagedc.compiler.targets.cuda.rows_file import print_file
from pagedc.compiler.weights import striped_rows
from pagedc.kernels.triton import linear
from pagedc.kernels.triton.launch import KernelConfig, config, run_all
from pagedc.kernels.triton.weights import WeightTensors
from pagedc.runtime.manifest import Limits

TOKENS, COLUMNS = 19, 256
SKINNY = config(4, 1, BLOCK_N=32, BLOCK_T=16, BLOCK_K=64, SLICED=1)
TILED = config(4, 1, BLOCK_N=32, BLOCK_T=16, BLOCK_K=64, SLICED=0)
FACTS = Facts(
    "test", "0", "float32", Limits(max_model_len=32, max_num_seqs=4, max_num_batched_tokens=32), "float32"
)
Array = NDArray[np.float32]


def program_of(build: Builder, x: Node) -> tuple[Program, Kernels]:
    graph = build.done(build.linear(x, 5))
    for node in graph.nodes:  # no passes: they would merge the linears
        if node.op == "linear":
            node.inputs[1].attrs["format"] = "f32"
    program = lower(graph, print_body)
    return program, Kernels(program, FACTS, Configs(), pdl=False)


def run(
    text: str, name: str, call: Call, weight: Array, extra: list[Array], directory: Path, launch: KernelConfig
) -> list[Array]:
    """The call's outputs for the same x [TOKENS, COLUMNS] each time."""
    n = call.constants["n"]
    stripes = call.constants.get("stripes", 1)
    packed = weight[striped_rows(n, stripes).numpy()] if stripes > 1 else weight
    outputs = [torch.zeros(TOKENS, buffer.width, device=DEVICE) for buffer in call.outputs]
    spec = linear.LinearSpec(n=n, k=COLUMNS, weight_format="f32", split_k=2)
    run_all(
        linear.launch_linear(
            spec, launch, tensor(x_values(), torch.float32), WeightTensors(tensor(packed, torch.float32)),
            outputs[0], torch.zeros(2 * TOKENS * n, device=DEVICE),
            torch.zeros(64, dtype=torch.int32, device=DEVICE),
            epilogue=getattr(imported_text(text, directory), name),
            extra=(*(tensor(value, torch.float32) for value in extra), *outputs[1:]),
        )
    )  # fmt: skip
    return [output.cpu().numpy() for output in outputs]


def x_values() -> Array:
    return np.random.default_rng(9).standard_normal((TOKENS, COLUMNS)).astype(np.float32)


def check(outputs: list[Array], *expected: Array) -> None:
    for found, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("launch", [SKINNY, TILED], ids=["skinny", "tiled"])
def test_a_bias_an_activation_and_a_residual(launch: KernelConfig, tmp_path: Path) -> None:
    """43 columns: the last tile is not whole."""
    build = Builder()
    x = build.embedded(COLUMNS)
    skip = build.linear(x, 43)
    biased = build.add("add", (build.linear(x, 43), build.parameter(43)), (43,))
    program, kernels = program_of(build, build.add("add", (build.add("tanh", (biased,), (43,)), skip), (43,)))
    (call,) = (call for call in program.calls if "epilogue" in call.constants)
    (name,) = (name for name in kernels.printed if name.startswith("epilogue"))
    weight, bias = build.state["p2"], build.state["p3"]
    residual = np.random.default_rng(1).standard_normal((TOKENS, 43)).astype(np.float32)
    values = {"w": bias, "b": residual}
    extra = [values[kind] for kind in call.constants["inputs"] if kind != "a"]
    text = print_file(kernels.printed.values())
    outputs = run(text, name, call, weight, extra, tmp_path, launch)
    check(outputs, np.tanh(x_values() @ weight.T + bias) + residual)


def gated(width: int) -> tuple[Builder, Program, Kernels]:
    build = Builder()
    x = build.linear(build.embedded(COLUMNS), 2 * width)
    gate = build.add("slice", (x,), (width,), axis=0, range=(0, width, 1))
    up = build.add("slice", (x,), (width,), axis=0, range=(width, 2 * width, 1))
    hidden = build.add("mul", (build.add("sigmoid", (gate,), (width,)), up), (width,))
    return build, *program_of(build, hidden)


def test_a_gate_finds_both_halves_in_its_tile(tmp_path: Path) -> None:
    build, program, kernels = gated(48)
    (name,) = (name for name in kernels.printed if name.startswith("epilogue"))
    weight, text = build.state["p1"], print_file(kernels.printed.values())
    gate, up = np.split(x_values() @ weight.T, 2, axis=1)
    found: list[Any] = [
        run(text, name, program.calls[1], weight, [], tmp_path, launch) for launch in (SKINNY, TILED)
    ]
    check(found[0], up / (1 + np.exp(-gate)))
    np.testing.assert_array_equal(*found)  # the same bits, whatever the size of the step chose


def test_one_row_kernel_becomes_an_epilogue_for_each_place_of_the_tile() -> None:
    build = Builder()
    x = build.embedded(16)
    first = build.add("add", (x, build.linear(x, 16)), (16,))
    second = build.add("add", (build.linear(first, 16), first), (16,))
    program, kernels = program_of(build, second)
    assert {call.constants.get("inputs") for call in program.calls if call.kind == "linear"} == {
        None, ("b", "a"), ("a", "b"),
    }  # fmt: skip
    printed = [text for name, text in kernels.printed.items() if name.startswith("epilogue")]
    assert len({text.split("def ")[1].split("(")[1] for text in printed}) == len(printed) == 2
