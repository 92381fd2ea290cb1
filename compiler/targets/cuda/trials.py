"""Candidates on their way to being timed: which are left out, why, and what the others are launched with."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pagedc.compiler.targets.cuda.candidates import Candidate, candidates_of, limits
from pagedc.compiler.targets.cuda.cost import Chip, Resources, Work, expected, predict, unfit, work_of
from pagedc.compiler.targets.cuda.points import Point
from pagedc.compiler.tuning import Mode

SLOWER = "predicted slower"
PER_TILE = 2


@dataclass(slots=True, eq=False)
class Trial:
    """One candidate at one point."""

    point: Point
    candidate: Candidate
    is_default: bool
    work: Work
    predicted: float  # microseconds
    reason: str | None = None  # why it is not timed
    launches: list[dict[str, Any]] = field(default_factory=list)
    given: dict[str, int] = field(default_factory=dict)  # parameter → bytes
    samples: list[float] = field(default_factory=list)  # microseconds

    @property
    def best(self) -> float:
        """The median of what was timed; infinite where nothing was."""
        ordered = sorted(self.samples)
        return ordered[len(ordered) // 2] if ordered else math.inf


def trials_of(point: Point, chip: Chip, context: int) -> list[Trial]:
    """All candidates, the default first; `reason` is set for those that cannot fit."""
    found = []
    for number, candidate in enumerate(candidates_of(point.kernel, point.spec, point.size)):
        work = work_of(point.kernel, candidate, point.size, context)
        resources = expected(work, candidate)
        trial = Trial(point, candidate, number == 0, work, predict(work, candidate, resources, chip))
        trial.reason = None if number == 0 else unfit(resources, candidate, chip)
        found.append(trial)
    return found


def shortlist(family: list[list[Trial]], mode: Mode) -> None:
    """Set `reason` of all but the most promising of a family: shared choices first, then the free ones."""
    num_shared, num_free = limits(family[0][0].point.kernel, mode)
    default = family[0][0].candidate.shared
    keys = _ranked(family, lambda trial: trial.predicted)
    keys = [default, *(key for key in keys if key != default)][:num_shared]
    for trials in family:
        for key in {trial.candidate.shared for trial in trials}:
            group = [trial for trial in trials if trial.candidate.shared == key and trial.reason is None]
            group.sort(key=lambda trial: (not trial.is_default, trial.predicted))
            kept = _varied(group)[:num_free] if key in keys else []
            for trial in group:
                trial.reason = None if trial.is_default or trial in kept else SLOWER


def _varied(group: list[Trial]) -> list[Trial]:
    """In this order, but of a tile two at most at first: the model hardly tells warps and stages apart."""
    seen: Counter[Any] = Counter()
    first: list[Trial] = []
    rest: list[Trial] = []
    for trial in group:
        seen[trial.candidate.config.constexprs] += 1
        (first if seen[trial.candidate.config.constexprs] <= PER_TILE else rest).append(trial)
    return first + rest


def judge(trial: Trial, binaries: list[dict[str, Any]], chip: Chip) -> None:
    """What the cubins say: leave a candidate out, or predict it again."""
    used = [binaries[launch["binary"]] for launch in trial.launches]
    failed = next((binary["failed"] for binary in used if "failed" in binary), None)
    if failed is not None:
        trial.reason = failed
        return
    needs = [Resources(binary["registers"], binary["spilled"], binary["shared"]) for binary in used]
    heaviest = max(needs, key=lambda each: each.registers)
    reasons = [unfit(each, trial.candidate, chip) for each in needs]
    if not trial.is_default:  # which is timed in any case: others are compared with it
        trial.reason = next((reason for reason in reasons if reason is not None), None)
    trial.predicted = predict(trial.work, trial.candidate, heaviest, chip)


def chosen(family: list[list[Trial]], gain: float) -> list[Trial]:
    """The trial of each point: one shared choice for all; the default's where another gains little."""
    default = family[0][0].candidate.shared
    keys = _ranked(family, lambda trial: trial.best)
    if not keys:
        return [trials[0] for trials in family]
    key = keys[0]
    if default in keys and _score(family, default) - _score(family, key) < math.log(gain) * len(family):
        key = default
    return [_fastest(trials, key, gain) for trials in family]


def pruned(trials: Iterable[Trial]) -> dict[str, int]:
    """How many were left out, by reason."""
    return dict(sorted(Counter(trial.reason for trial in trials if trial.reason is not None).items()))


def _fastest(trials: list[Trial], key: Any, gain: float) -> Trial:
    of_key = [trial for trial in trials if trial.candidate.shared == key and trial.samples]
    best = min(of_key, key=lambda trial: trial.best)
    return trials[0] if trials[0] in of_key and trials[0].best < best.best * gain else best


def _ranked(family: list[list[Trial]], value: Any) -> list[Any]:
    """The shared choices that every point has, the fastest first."""
    common = set.intersection(
        *(
            {t.candidate.shared for t in trials if t.reason is None and value(t) < math.inf}
            for trials in family
        )
    )
    return sorted(common, key=lambda key: (_score(family, key, value), key))


def _score(family: list[list[Trial]], key: Any, value: Any = lambda trial: trial.best) -> float:
    """The sum of the logarithms of the fastest of each point."""
    return sum(
        math.log(min(value(t) for t in trials if t.candidate.shared == key and t.reason is None))
        for trials in family
    )
