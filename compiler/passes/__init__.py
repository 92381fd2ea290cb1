"""Passes: each a function from a graph to the number of its changes, one a file.

Invariants: a pass leaves the graph topologically sorted and verified; it never reads a weight; a pass that
does not apply returns 0. Row ops need no rules: they fuse when the graph is lowered, whatever they are.
Passes exist for what changes an anchor, and to bring the graph into one spelling.
"""

from collections.abc import Callable
from pathlib import Path

from pagedc.compiler.graph import Graph, Node
from pagedc.compiler.passes.assign_formats import assign_formats
from pagedc.compiler.passes.fold_constants import fold_constants
from pagedc.compiler.passes.merge_linears import merge_linears
from pagedc.compiler.passes.round_inputs import round_inputs
from pagedc.compiler.passes.select_logits_rows import select_logits_rows
from pagedc.compiler.passes.simplify import simplify

PASSES: tuple[Callable[[Graph], int], ...] = (
    # Normalise: later passes see one spelling of each value.
    simplify,
    fold_constants,
    # Shape the anchors.
    merge_linears,
    round_inputs,  # after merge_linears: one rounded copy serves the merged linear
    select_logits_rows,  # after round_inputs: the last layer ends in the same kernels as the others
    simplify,  # the slices and casts that the others left
)


def run_passes(graph: Graph, format_of: Callable[[Node], str], dump_ir: Path | None = None) -> dict[str, int]:
    """Run all passes in order; returns the changes of each. `dump_ir` gets one text file a pass."""
    changes: dict[str, int] = {}
    _dump(graph, dump_ir, "traced")
    for step in PASSES:
        if step is merge_linears:
            assign_formats(graph, format_of)
        changes[step.__name__] = changes.get(step.__name__, 0) + step(graph)
        graph.verify()
        _dump(graph, dump_ir, step.__name__)
    return changes


def _dump(graph: Graph, directory: Path | None, name: str) -> None:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        number = len(list(directory.glob("*.txt")))
        (directory / f"{number:02}_{name}.txt").write_text(graph.dump())
