"""Figures of many answers: the field's names, and what each means.

TTFT: seconds to the first token. TPOT: of one request, seconds a token after the first. ITL: between two
events of one stream. E2EL: to the last token. Goodput: requests a second that met every objective.
"""

import math
from collections.abc import Sequence
from typing import Any

from pagedc.runtime.bench.recording import Answer

OBJECTIVES = ("ttft", "tpot", "e2el")


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, median, p90 and p99; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "mean": math.fsum(ordered) / len(ordered),
        "median": percentile(ordered, 50),
        "p90": percentile(ordered, 90),
        "p99": percentile(ordered, 99),
    }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Between the two nearest of sorted values, linearly."""
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def parse_objectives(words: Sequence[str]) -> dict[str, float]:
    """{"ttft": 0.5} of "ttft:500" (milliseconds). Raises ValueError."""
    found = {}
    for word in words:
        name, _, text = word.partition(":")
        try:
            milliseconds = float(text)
        except ValueError:
            milliseconds = math.nan
        if name not in OBJECTIVES or not milliseconds > 0:
            raise ValueError(f"{word!r} is not an objective like ttft:500 or tpot:50, in milliseconds")
        found[name] = milliseconds / 1000
    return found


def serve_figures(answers: Sequence[Answer], seconds: float, objectives: dict[str, float]) -> dict[str, Any]:
    """Everything `pagedc bench serve` reports; times in seconds."""
    good = [answer for answer in answers if not answer.error]
    failed = [answer for answer in answers if answer.error]
    figures: dict[str, Any] = {
        "requests": len(answers),
        "failed": len(failed),
        "seconds": seconds,
        "requests_per_second": len(good) / seconds,
        "prompt_tokens": sum(answer.num_prompt_tokens or 0 for answer in good),
        "output_tokens": sum(answer.num_tokens for answer in good),
        "output_tokens_per_second": sum(answer.num_tokens for answer in good) / seconds,
        "ttft": spread([answer.first_token for answer in good]),
        "tpot": spread([each for answer in good if (each := answer.time_per_token) is not None]),
        "itl": spread([gap for answer in good for gap in answer.gaps]),
        "e2el": spread([answer.ended - answer.started for answer in good]),
    }
    if objectives:
        met = [answer for answer in good if meets(answer, objectives)]
        figures["objectives"] = objectives
        figures["goodput"] = len(met) / seconds
    if failed:
        figures["first_error"] = failed[0].error
    return figures


def meets(answer: Answer, objectives: dict[str, float]) -> bool:
    """Within every objective."""
    found = {
        "ttft": answer.first_token,
        "tpot": answer.time_per_token or 0.0,
        "e2el": answer.ended - answer.started,
    }
    return all(found[name] <= limit for name, limit in objectives.items())
