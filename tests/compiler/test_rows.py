"""Row kernels of random graphs, in C++, against the interpreter."""

import ctypes

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.compiler.random_rows import RandomRows
from tests.compiler.small_graphs import Builder
from tests.kernels.harness import compile_harness

from pagedc.compiler.graph import INDEX, Graph, Node
from pagedc.compiler.interpret import run
from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.rows.plan import build_kernel
from pagedc.compiler.targets.cpu.cpp import TYPES
from pagedc.compiler.targets.cpu.row_printer import print_body, print_signature

NUM_TOKENS = 5
FREE = INDEX - {"cat", "iota"}
PREAMBLE = '#include "rows.h"\nusing namespace pagedc;\n'


def plan(graph: Graph, every: int) -> RowKernel:
    """A kernel of all row ops that stores every `every`-th of them and the last."""
    nodes = [node for node in graph.nodes if node.is_row_op and node.op not in FREE]
    return build_kernel(nodes, list(dict.fromkeys([*nodes[::every], nodes[-1]])))


def print_entry(kernel: RowKernel, name: str) -> str:
    """The kernel and an entry that runs it over tokens."""
    arguments = [
        f"({'const ' if node in kernel.inputs else ''}{TYPES[node.dtype]}*)values[{i}]"
        + ("" if node.domain == "const" else f" + t * {node.size}")
        for i, node in enumerate([*kernel.inputs, *kernel.outputs])
    ]
    return (
        f"{print_signature(kernel, name)} {{\n{print_body(kernel)}\n}}\n"
        f'extern "C" void run_{name}(void** values) {{\n'
        f"  for (int t = 0; t < {NUM_TOKENS}; ++t) {name}({', '.join(arguments)});\n}}\n"
    )


def value_of(rows: RandomRows, node: Node) -> NDArray[np.float64]:
    """[tokens, size] of a node, by the interpreter."""
    graph = Graph(rows.graph.nodes, node)
    token_ids = np.arange(NUM_TOKENS)[::-1].copy()
    result: NDArray[np.float64] = run(graph, rows.tables.__getitem__, token_ids).reshape(NUM_TOKENS, -1)
    return result


@pytest.mark.parametrize("batch", range(4))
def test_kernels_agree_with_the_interpreter(batch: int) -> None:
    cases = []
    for seed in range(batch * 40, batch * 40 + 40):
        rows = RandomRows(seed, num_ops=4 + seed % 20)
        rows.graph.verify()
        if any(node.is_row_op and node.op not in FREE for node in rows.graph.nodes):
            cases.append((seed, rows, plan(rows.graph, every=2 + seed % 7)))
    sources = [print_entry(kernel, f"rows_{seed}") for seed, _, kernel in cases]
    library = compile_harness(PREAMBLE + "".join(sources), flags=("-O1",))
    for seed, rows, kernel in cases:
        arrays = []
        for node in [*kernel.inputs, *kernel.outputs]:
            dtype = np.float32 if node.dtype == "float32" else np.int32
            given = node in kernel.inputs
            arrays.append(
                np.ascontiguousarray(value_of(rows, node), dtype)
                if given
                else np.zeros((NUM_TOKENS, node.size), dtype)
            )
        pointers = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
        getattr(library, f"run_rows_{seed}")(pointers)
        for node, found in zip(kernel.outputs, arrays[len(kernel.inputs) :], strict=True):
            np.testing.assert_allclose(
                found,
                value_of(rows, node),
                rtol=3e-5,
                atol=3e-5,
                err_msg=f"seed {seed}, {node}:\n{rows.graph.dump()}",
            )


def test_a_cumulative_sum_runs_on_across_a_join() -> None:
    """Loops over a join are cut in two; the sum must not begin again."""
    build = Builder()
    x = build.embedded(8)
    both = build.add("cat", (x, build.add("tanh", (x,), (8,))), (16,), axis=0)
    total = build.add("cumsum", (both,), (16,), axes=(0,))
    kernel = plan(build.done(total), every=2)
    library = compile_harness(PREAMBLE + print_entry(kernel, "total"))
    values = build.state["p0"][:NUM_TOKENS].copy()
    arrays = [values, *[np.zeros((NUM_TOKENS, node.size), np.float32) for node in kernel.outputs]]
    library.run_total((ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays]))
    found = arrays[1 + kernel.outputs.index(total)]
    np.testing.assert_allclose(
        found, np.cumsum(np.hstack([values, np.tanh(values)]), 1), rtol=1e-5, atol=1e-5
    )
