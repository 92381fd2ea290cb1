"""Row kernels of random graphs in Triton's interpreter, against numpy's; what is printed for known ones."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.compiler.random_rows import RandomRows
from tests.compiler.small_graphs import Builder
from tests.compiler.test_rows import FREE, NUM_TOKENS, plan, value_of
from tests.kernels.triton.device import DEVICE

from pagedc.compiler.graph import Node
from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.targets.cuda.row_printer import num_warps, print_body, scratch_elements
from pagedc.compiler.targets.cuda.rows_file import print_file, print_row_kernel

# A lane that is switched off computes with zeros: 1 / 0 there is nobody's.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def imported(kernels: dict[str, RowKernel], directory: Path) -> ModuleType:
    texts = [print_row_kernel(name, kernel, []) for name, kernel in kernels.items()]
    return imported_text(print_file(texts), directory)


def imported_text(text: str, directory: Path) -> ModuleType:
    path = directory / "rows.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("printed_rows", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(
    module: ModuleType, name: str, kernel: RowKernel, inputs: list[NDArray[np.generic]]
) -> list[NDArray[np.generic]]:
    """The outputs [tokens, size], given the inputs."""
    outputs = [
        torch.zeros((NUM_TOKENS, node.size), dtype=torch.float32 if node.dtype == "float32" else torch.int32)
        for node in kernel.outputs
    ]
    tensors = [torch.from_numpy(array).to(DEVICE) for array in inputs]
    tensors += [output.to(DEVICE) for output in outputs]
    cells = scratch_elements(kernel)
    # NaN: what a stage reads, an earlier one has written.
    scratch = [torch.full((NUM_TOKENS * cells,), float("nan"), device=DEVICE)] if cells else []
    getattr(module, name)[(NUM_TOKENS,)](
        *tensors, *scratch, PDL=False, INTERPRET=DEVICE == "cpu", num_warps=num_warps(kernel)
    )
    return [tensor.cpu().numpy() for tensor in tensors[len(inputs) :]]


def value(rows: RandomRows, node: Node) -> NDArray[np.generic]:
    return np.ascontiguousarray(value_of(rows, node), np.float32 if node.dtype == "float32" else np.int32)


def test_kernels_agree_with_the_interpreter(tmp_path: Path) -> None:
    cases = {}
    for seed in range(0, 160, 4):
        rows = RandomRows(seed, num_ops=4 + seed % 20)
        if any(node.is_row_op and node.op not in FREE for node in rows.graph.nodes):
            cases[f"rows_{seed}"] = rows, plan(rows.graph, every=2 + seed % 7)
    module = imported({name: kernel for name, (_, kernel) in cases.items()}, tmp_path)
    for name, (rows, kernel) in cases.items():
        outputs = run(module, name, kernel, [value(rows, node) for node in kernel.inputs])
        for node, found in zip(kernel.outputs, outputs, strict=True):
            np.testing.assert_allclose(
                found,
                value(rows, node),
                rtol=3e-5,
                atol=3e-5,
                err_msg=f"{name}, {node}:\n{rows.graph.dump()}",
            )


@pytest.mark.parametrize("width", [5000, 8192])
def test_a_row_wider_than_a_block_is_walked(width: int, tmp_path: Path) -> None:
    """A norm: the sum runs over blocks of 4096, the last of 5000 cut short."""
    build = Builder()
    x = build.embedded(width)
    total = build.add("sum", (build.add("mul", (x, x), (width,)),), (1,), axes=(0,))
    scale = build.add("expand", (build.add("rsqrt", (total,), (1,)),), (width,))
    graph = build.done(build.add("mul", (x, scale), (width,)))
    kernel = plan(graph, every=9)
    values = build.state["p0"][:NUM_TOKENS].copy()
    module = imported({"norm": kernel}, tmp_path)
    outputs = run(module, "norm", kernel, [values])
    expected = values / np.sqrt(np.square(values).sum(1, keepdims=True))
    np.testing.assert_allclose(outputs[kernel.outputs.index(graph.logits)], expected, rtol=2e-6, atol=1e-7)
    assert num_warps(kernel) == 8


def test_equal_kernels_print_equally_and_index_what_lies_as_one_as_one() -> None:
    def printed() -> str:
        build = Builder()
        x = build.add("reshape", (build.embedded(24),), (2, 3, 4))
        graph = build.done(build.add("tanh", (build.add("neg", (x,), x.shape),), x.shape))
        return print_body(plan(graph, every=9))

    text = printed()
    assert text == printed()
    assert "tl.load(in0 + i0, (i0 < 24), other=0)" in text
    assert "//" not in text  # three loops over one run of memory are one index


def test_one_value_for_all_lanes_is_read_without_a_mask() -> None:
    """Triton takes no block of lanes as the mask of one address: a gathered value's is computed."""
    build = Builder()
    x = build.embedded(9)
    index = build.add("topk_index", (x,), (1,), "int32", k=1)
    picked = build.add("gather", (x, index), (1,), axis=0)
    graph = build.done(build.add("mul", (x, build.add("expand", (picked,), (9,))), (9,)))
    loads = [line for line in print_body(plan(graph, every=9)).splitlines() if "+ tl.load(" in line]
    assert len(loads) == 1
    assert loads[0].count("other=0") == 1  # of x itself
