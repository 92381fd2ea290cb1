"""Percentiles, goodput and objectives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagedc.runtime.bench.figures import parse_objectives, percentile, serve_figures, spread
from pagedc.runtime.bench.recording import Answer

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(NUMBERS, st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent), abs=1e-6)


def test_a_spread_of_nothing_is_none() -> None:
    assert spread([]) is None
    assert spread([2.0, 4.0]) == {"mean": 3.0, "median": 3.0, "p90": 3.8, "p99": 3.98}


def test_figures_of_answers() -> None:
    answers = [
        Answer(0.0, 3.0, [1.0, 2.0, 3.0], 3, 10),
        Answer(0.0, 1.0, [0.5, 1.0], 2, 20),
        Answer(0.0, 9.0, error="HTTP 429"),
    ]
    figures = serve_figures(answers, 4.0, {"ttft": 0.6, "tpot": 0.5})
    assert (figures["requests"], figures["failed"], figures["first_error"]) == (3, 1, "HTTP 429")
    assert (figures["requests_per_second"], figures["output_tokens_per_second"]) == (0.5, 1.25)
    assert figures["prompt_tokens"] == 30
    assert figures["ttft"]["mean"] == 0.75
    assert figures["tpot"]["mean"] == 0.75
    assert figures["itl"]["mean"] == pytest.approx(2.5 / 3)
    assert figures["e2el"]["mean"] == 2.0
    assert figures["goodput"] == 0.25


def test_objectives_are_milliseconds() -> None:
    assert parse_objectives(["ttft:500", "tpot:12.5"]) == {"ttft": 0.5, "tpot": 0.0125}
    for word in ("ttft", "ttft:", "ttft:0", "ttft:x", "speed:3", "ttft:nan"):
        with pytest.raises(ValueError, match="is not an objective"):
            parse_objectives([word])
