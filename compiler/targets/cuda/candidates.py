"""What the tuner may choose for a kernel: its configs, and of a linear into how many slices K is cut.

Some constants decide the order in which sums are added: those are one choice for all sizes of a step, so that
a request has the same bits in any batch. The others may differ from size to size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pagedc.compiler.targets.cuda.configs import triton_module
from pagedc.compiler.tuning import Mode

MAX_SPLIT_K = 16
WARPS, STAGES, SPLIT_K = "WARPS", "STAGES", "SPLIT_K"  # beside the constants of a config


@dataclass(frozen=True, slots=True)
class Candidate:
    """A config, with the spec that it is for."""

    spec: Any
    config: Any  # KernelConfig of kernels/triton/launch.py
    shared: tuple[tuple[str, int], ...]  # the constants that all sizes have in common

    @property
    def constants(self) -> dict[str, int]:
        """All that is chosen, as tuning.json has it."""
        split = dict(self.shared)
        sliced = {SPLIT_K: split[SPLIT_K]} if SPLIT_K in split else {}
        config = self.config
        return dict(config.constexprs) | {WARPS: config.num_warps, STAGES: config.num_stages} | sliced


@dataclass(frozen=True, slots=True)
class Space:
    """How much of a kernel's candidates is compiled and timed."""

    free: tuple[str, ...] | None  # constants of a config that may differ from size to size; None = all
    quick: tuple[int, int]  # choices of the shared constants, and of the free ones for each of those
    full: tuple[int, int]


SPACES = {
    "linear": Space(None, (2, 4), (4, 12)),
    "grouped_linear": Space(None, (1, 6), (1, 24)),
    "attention_decode": Space(("PROGRAMS",), (6, 2), (36, 2)),
    "attention_prefill": Space((), (6, 1), (36, 1)),
    "sampling": Space((), (6, 1), (6, 1)),
    "embedding": Space(None, (1, 4), (1, 12)),
    "kv_cache": Space(None, (1, 3), (1, 3)),
}


def limits(kernel: str, mode: Mode) -> tuple[int, int]:
    """(shared, free) choices that are kept of a kernel."""
    space = SPACES[kernel]
    return space.full if mode == "full" else space.quick


def default_of(kernel: str, spec: Any, size: int) -> Candidate:
    """What a package has that was not tuned."""
    return _candidate(kernel, spec, triton_module(kernel).defaults(spec, size))


def candidates_of(kernel: str, spec: Any, size: int) -> list[Candidate]:
    """The default first, then every other point of the search space, each once."""
    module = triton_module(kernel)
    found = dict.fromkeys([default_of(kernel, spec, size)])
    for cut in _cuts(kernel, spec):
        for config in module.candidates(cut, size):
            found.setdefault(_candidate(kernel, cut, config))
    return list(found)


def base_of(spec: Any) -> Any:
    """The spec without what the tuner chooses of it."""
    return replace(spec, split_k=0) if hasattr(spec, "split_k") else spec


def config_of(constants: dict[str, int]) -> Any:
    """The KernelConfig of constants as tuning.json has them."""
    own = {name: value for name, value in constants.items() if name not in (WARPS, STAGES, SPLIT_K)}
    return triton_module("launch").config(constants[WARPS], constants[STAGES], **own)


def _candidate(kernel: str, spec: Any, config: Any) -> Candidate:
    free = SPACES[kernel].free
    shared: list[tuple[str, int]] = []
    if hasattr(spec, "split_k"):
        shared.append((SPLIT_K, spec.num_slices))
        spec = replace(spec, split_k=spec.num_slices)
    if free is not None:
        shared += [(name, value) for name, value in config.constexprs if name not in free]
        shared += [(WARPS, config.num_warps), (STAGES, config.num_stages)]
    return Candidate(spec, config, tuple(shared))


def _cuts(kernel: str, spec: Any) -> Sequence[Any]:
    """Specs with half, the same, twice and no slices; one spec where the kernel has none."""
    if not hasattr(spec, "split_k"):
        return [spec]
    default = spec.num_slices
    wanted = sorted({1, max(default // 2, 1), default, min(2 * default, MAX_SPLIT_K)})
    cuts = {replace(spec, split_k=n).num_slices for n in wanted}
    return [replace(spec, split_k=n) for n in sorted(cuts)]
