"""Where a package and its model part ways: the outputs of each module, compared in the order they run.

The traced graph is run in numpy, in float32, with the weights that lie in the package; Hugging Face's module
runs beside it with the checkpoint's own, rounded as the manifest says. A weight that was packed wrong, or an
op that was traced wrong, shows first in the module it belongs to. Where all modules agree and the package's
logits do not, the fault is in its program.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pagedc.compiler.checkpoint import Checkpoint
from pagedc.compiler.graph import Graph, Node
from pagedc.compiler.interpret import walk
from pagedc.compiler.package_weights import PackageWeights
from pagedc.compiler.reference import Reference, rounding_of
from pagedc.compiler.trace import trace
from pagedc.runtime.manifest import Manifest

Array = NDArray[Any]
NUM_TOKENS = 24
TOLERANCE = 1e-3  # of the largest value; float32 in another order gives 1e-6 to 1e-4 after many layers


class Module(NamedTuple):
    """One module's output in both."""

    path: str
    error: float  # largest difference / largest value

    @property
    def departs(self) -> bool:
        """Whether it is another value; also True for NaN."""
        return not self.error <= TOLERANCE


def compare_modules(
    package: Path, manifest: Manifest, checkpoint: Checkpoint, reference: Reference, token_ids: list[int]
) -> list[Module]:
    """Every module whose output the graph has, in order; one sequence of at most NUM_TOKENS tokens."""
    token_ids = token_ids[:NUM_TOKENS]
    graph = trace(checkpoint.config)
    expected = reference.outputs(token_ids, set(last_nodes(graph).values()))
    weights = PackageWeights(package, manifest, checkpoint, rounding_of(manifest))
    return compare(graph, weights.read, expected, np.array(token_ids))


def last_nodes(graph: Graph) -> dict[Node, str]:
    """The node that is a module's output: the last one in it, where that is its own and no part's."""
    last: dict[str, Node] = {}
    for node in graph.nodes:
        path = node.origin
        while path and node.domain == "token":
            last[path] = node
            path = path.rpartition(".")[0]
    return {node: path for path, node in last.items() if node.origin == path}


def compare(
    graph: Graph, read: Callable[[str], Array], expected: dict[str, torch.Tensor], token_ids: Array
) -> list[Module]:
    """The modules of which both sides have the output, in order.

    Inside some modules Hugging Face takes tokens in another order (experts): a part that departs in a whole
    that agrees is left out.
    """
    paths = last_nodes(graph)
    found: list[Module] = []
    for node, value in walk(graph, read, token_ids):
        output = expected.get(paths.get(node, ""))
        if output is not None and output.numel() == value.size:
            wanted = output.reshape(value.shape).numpy()
            largest = max(float(np.abs(wanted).max()), float(np.finfo(np.float32).tiny))
            found.append(Module(paths[node], float(np.abs(value - wanted).max()) / largest))
    by_path = {module.path: module for module in found}
    return [module for module in found if not (module.departs and _is_mended(module.path, by_path))]


def _is_mended(path: str, by_path: dict[str, Module]) -> bool:
    """Whether the nearest module around it that was compared agrees."""
    while path:
        path = path.rpartition(".")[0]
        if path in by_path:
            return not by_path[path].departs
    return False
