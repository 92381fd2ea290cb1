"""Rows of tuning.json for a GPU's kernels, and the configs that rows stand for."""

from collections.abc import Iterable
from typing import Any

import msgspec

from pagedc.compiler.errors import OptionError
from pagedc.compiler.targets.cuda.candidates import (
    SPLIT_K,
    STAGES,
    WARPS,
    Candidate,
    candidates_of,
    config_of,
    default_of,
)
from pagedc.compiler.targets.cuda.configs import Configs
from pagedc.compiler.targets.cuda.points import Point
from pagedc.compiler.targets.cuda.trials import Trial, pruned
from pagedc.compiler.tuning import TunedKernel

LARGEST = 1 << 16  # of a constant
LOWER = {WARPS: "warps", STAGES: "stages", SPLIT_K: "split_k"}


def row_of(best: Trial, trials: list[Trial], measured: dict[str, Any]) -> TunedKernel:
    """What was chosen at a point, of its trials. `measured`: `copy` and `peak` of the machine."""
    work, timed = best.work, [trial for trial in trials if trial.samples]
    row = TunedKernel(
        kernel=best.point.kernel,
        shape=best.point.shape,
        candidates=len(timed),
        config=spelled(best.candidate.constants),
        constants=best.candidate.constants,
        pruned=pruned(trials),
    )
    if not best.samples:
        return msgspec.structs.replace(row, config=f"{row.config} (not tuned)")
    seconds = best.best / 1e6
    copy, peak = measured.get("copy"), measured.get("peak")
    read = work.num_bytes / copy if copy else 0.0
    compute = work.flops / peak if peak else 0.0
    binds = work.num_bytes if read >= compute else work.flops
    # Without a measured peak, a kernel that multiplies much is beside no ceiling.
    known = compute > 0 or work.flops < 50 * work.num_bytes
    return msgspec.structs.replace(
        row,
        microseconds=round(best.best, 2),
        percent_of_limit=round(100 * max(read, compute) / seconds, 1) if known and copy else None,
        speedup=round(trials[0].best / best.best, 3) if trials[0].samples else None,
        limit="bandwidth" if read >= compute else "arithmetic",
        intensity=round(work.flops / work.num_bytes, 3),
        rate=binds / seconds if known else None,
    )


def untimed_row(point: Point, like: Candidate) -> TunedKernel:
    """A point between those that were timed: the default, but for what all sizes share."""
    candidate = default_of(point.kernel, point.spec, point.size)
    if candidate.shared != like.shared:
        found = [c for c in candidates_of(point.kernel, like.spec, point.size) if c.shared == like.shared]
        own = {
            name: value
            for name, value in candidate.constants.items()
            if (name, value) not in candidate.shared
        }
        candidate = min(
            found, key=lambda each: sum(own[n] != each.constants.get(n) for n in own), default=like
        )
    return default_row(point, candidate)


def default_row(point: Point, candidate: Candidate | None = None) -> TunedKernel:
    """A kernel that nobody timed."""
    candidate = candidate or default_of(point.kernel, point.spec, point.size)
    return TunedKernel(
        kernel=point.kernel,
        shape=point.shape,
        candidates=0,
        config=f"{spelled(candidate.constants)} (not tuned)",
        constants=candidate.constants,
    )


def spelled(constants: dict[str, int]) -> str:
    """`BLOCK_N=64 BLOCK_T=16 4 warps`."""
    return " ".join(f"{LOWER.get(name, name)}={value}" for name, value in constants.items())


def configs_of(points: Iterable[Point], rows: Iterable[TunedKernel]) -> Configs:
    """The configs that rows choose for a program's points. Raises OptionError for a row that is none."""
    by_key = {(row.kernel, row.shape): row for row in rows}
    chosen: dict[tuple[str, Any, int], Any] = {}
    slices: dict[Any, int] = {}
    for point in points:
        row = by_key.get((point.kernel, point.shape))
        if row is not None:
            constants = _checked(row, point)
            chosen[point.kernel, point.spec, point.tier] = config_of(constants)
            if (
                SPLIT_K in constants
                and slices.setdefault(point.spec, constants[SPLIT_K]) != constants[SPLIT_K]
            ):
                raise OptionError(f"the tuning of {row.shape} cuts K otherwise than at another size")
    return Configs(chosen, slices)


def _checked(row: TunedKernel, point: Point) -> dict[str, int]:
    """The names that some candidate has, and small numbers."""
    found = candidates_of(point.kernel, point.spec, point.size)
    names = found[0].constants.keys()
    if row.constants.keys() not in [each.constants.keys() for each in found]:
        raise OptionError(
            f"the tuning of {row.kernel} {row.shape} has other constants than {', '.join(names)}"
        )
    for name, value in row.constants.items():
        if not (name == "SLICED" or value >= 1) or not 0 <= value <= LARGEST:
            raise OptionError(f"the tuning of {row.kernel} {row.shape} has {name} = {value}")
    return row.constants
