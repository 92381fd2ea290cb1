"""A mask is known by what it lets each token see, and by nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pagedc.compiler.mask_forms import Mask, MaskError, Scores, bias_of, form_of, scores_of, solve

TOKENS = 40
POSITION = torch.arange(TOKENS)
DISTANCE = POSITION[:, None] - POSITION[None]
CAUSAL = DISTANCE >= 0


def additive(seen: torch.Tensor) -> torch.Tensor:
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]


def test_causal() -> None:
    assert form_of(bias_of(additive(CAUSAL))) == Mask()
    assert form_of(bias_of(CAUSAL[None])) == Mask()


@given(st.integers(1, TOKENS - 1))
def test_windows_and_chunks(size: int) -> None:
    assert form_of(bias_of(additive(CAUSAL & (size > DISTANCE)))) == Mask(window=size)
    chunks = CAUSAL & (POSITION[:, None] // size == POSITION[None] // size)
    assert form_of(bias_of(additive(chunks))) == (Mask(window=1) if size == 1 else Mask(chunk=size))


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=4), st.booleans())
def test_slopes(slopes: list[float], counted_from_the_start: bool) -> None:
    """A whole row may be shifted: the softmax does not see it."""
    keys = POSITION[None] if counted_from_the_start else -DISTANCE
    bias = torch.tensor(slopes, dtype=torch.float64)[:, None, None] * keys + additive(CAUSAL)[0]
    found = form_of(bias_of(bias))
    assert (found.window, found.chunk) == (0, 0)
    assert found.slopes == pytest.approx(slopes)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (torch.ones(TOKENS, TOKENS, dtype=torch.bool), "not causal"),
        (DISTANCE.abs() < 5, "not causal"),
        (CAUSAL & (DISTANCE % 2 == 0), "neither"),
        (CAUSAL & (DISTANCE > 0), "neither"),
    ],
)
def test_anything_else_is_refused(seen: torch.Tensor, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        form_of(bias_of(additive(seen)))


def test_a_bias_that_is_no_slope_is_refused() -> None:
    with pytest.raises(MaskError, match="slope"):
        form_of(bias_of(additive(CAUSAL) - DISTANCE.clamp(0).sqrt()))


@given(st.floats(0.05, 2.0), st.sampled_from([0.0, 20.0, 50.0]))
def test_scale_and_softcap(scale: float, softcap: float) -> None:
    def scores(value: float) -> torch.Tensor:
        x = torch.full((1, TOKENS, TOKENS), value) * scale
        return bias_of((torch.tanh(x / softcap) * softcap if softcap else x) + additive(CAUSAL)[0])

    found = scores_of(scores)
    assert found.mask == Mask()
    assert (found.scale, found.softcap) == pytest.approx((scale, softcap), rel=2e-4)


def test_scores_that_are_bent_otherwise_are_refused() -> None:
    with pytest.raises(MaskError, match="neither scaled nor capped"):
        scores_of(lambda x: bias_of(torch.full((1, TOKENS, TOKENS), x).relu() + additive(CAUSAL)[0]))


def test_a_size_follows_its_number() -> None:
    stand_ins = [{4096: 23, 5000: 37}, {4096: 37, 5000: 43}]
    first, second = (Scores(Mask(window=n), 0.1, 0.0) for n in (24, 38))
    assert solve(first, second, [4096, 5000], stand_ins) == Scores(Mask(window=4097), 0.1, 0.0)
    with pytest.raises(MaskError, match="follows none"):
        solve(Mask(window=3), Mask(window=4), [4096, 5000], stand_ins)
