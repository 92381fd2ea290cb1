"""Find the repeated layer: calls that recur with other weights become a function and a loop."""

from dataclasses import dataclass, field
from typing import Any

from pagedc.compiler.graph import STATEFUL
from pagedc.compiler.program import Call

MIXERS = STATEFUL | {"attention"}  # calls in which a token reads others


@dataclass(slots=True)
class Loop:
    """`iterations[i][c]` is call c of iteration i; iterations with equal keys share a function."""

    iterations: list[list[Call]]
    functions: list[list[Call]] = field(default_factory=list)  # a representative of each distinct one
    kinds: list[int] = field(default_factory=list)  # iteration → function


Section = Call | Loop


def outline(calls: list[Call]) -> list[Section]:
    """Calls in order, the repeated ones gathered in loops."""
    sections: list[Section] = []
    position = 0
    while position < len(calls):
        period, count = _longest_run(calls, position)
        if count < 2:
            sections.append(calls[position])
            position += 1
            continue
        run = calls[position : position + period * count]
        sections.append(_loop([run[start : start + period] for start in range(0, len(run), period)]))
        position += period * count
    return sections


def _longest_run(calls: list[Call], start: int) -> tuple[int, int]:
    """The period and count of the run at `start` that covers most calls; each period mixes tokens."""
    keys = [call.shape_key for call in calls[start:]]
    best = (1, 1)
    for period in range(2, len(keys) // 2 + 1):
        if not any(call.kind in MIXERS for call in calls[start : start + period]):
            continue
        count = 1
        while keys[count * period : (count + 1) * period] == keys[:period]:
            count += 1
        if count > 1 and period * count > best[0] * best[1]:
            best = (period, count)
    return best


def _loop(iterations: list[list[Call]]) -> Loop:
    loop = Loop(iterations)
    known: dict[Any, int] = {}
    for calls in iterations:
        key = tuple(call.key for call in calls)
        if key not in known:
            known[key] = len(loop.functions)
            loop.functions.append(calls)
        loop.kinds.append(known[key])
    return loop
