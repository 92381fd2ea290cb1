"""Figures that are known beforehand, and floors that say what was missed."""

import math

import pytest
import torch

from pagedc.compiler.agreement import FLOAT32_FLOORS, ROUNDED_FLOORS, Agreement, Comparison, Floors


def compare(reference: torch.Tensor, logits: torch.Tensor, targets: list[int]) -> Agreement:
    comparison = Comparison()
    comparison.add(reference, logits, torch.tensor(targets))
    return comparison.result()


def test_equal_logits_agree_exactly() -> None:
    logits = torch.randn(100, 7, generator=torch.Generator().manual_seed(0))
    found = compare(logits, logits, [3] * 99)
    assert (found.num_tokens, found.top1_agreement, found.mean_kl, found.max_relative_error) == (100, 1, 0, 0)
    assert found.perplexity == found.reference_perplexity


def test_known_distributions() -> None:
    reference = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])  # one row where every logit is 0
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    found = compare(reference, logits, [0, 1])
    assert found.top1_agreement == 0.5
    # KL((3/4, 1/4), (1/4, 3/4)) = ½ ln 3
    assert found.mean_kl == pytest.approx(math.log(3) / 4)
    assert found.reference_perplexity == pytest.approx(math.sqrt(2 * 4))
    assert found.perplexity == pytest.approx(math.sqrt(2 * 4 / 3))
    assert found.max_relative_error == pytest.approx(1)


def test_rows_in_parts_give_the_same_sums() -> None:
    generator = torch.Generator().manual_seed(1)
    reference, logits = (torch.randn(150, 11, generator=generator) for _ in range(2))
    targets = torch.randint(11, (150,), generator=generator)
    comparison = Comparison()
    comparison.add(reference[:100], logits[:100], targets[:100])
    comparison.add(reference[100:], logits[100:], targets[100:])
    assert comparison.result() == pytest.approx(compare(reference, logits, targets.tolist()))


def test_nan_misses_every_floor_it_touches() -> None:
    logits = torch.zeros(3, 4)
    broken = logits.clone()
    broken[1, 2] = math.nan
    found = compare(logits + 1, broken, [0, 1])
    assert math.isnan(found.max_relative_error)
    missed = found.shortfalls(Floors(mean_kl=1, max_relative_error=1))
    assert [text.split(" nan")[0] for text in missed] == [
        "mean kl",
        "perplexity change",
        "max relative error",
    ]


def test_shortfalls_say_value_and_floor() -> None:
    found = Agreement(10, 0.95, 0.001, 10.1, 10.0, 0.5)
    floors = Floors(top1_agreement=0.98, mean_kl=0.0008, perplexity_change=0.02, max_relative_error=1e-4)
    assert found.shortfalls(floors) == [
        "top-1 agreement 95.00% < 98.00%",
        "mean kl 0.001 > 0.0008",
        "max relative error 0.5 > 0.0001",
    ]


def test_logits_beyond_all_measure_are_a_shortfall() -> None:
    found = compare(torch.zeros(2, 2), torch.tensor([[1e30, 0.0], [0.0, 1.0]]), [1])
    assert found.perplexity == math.inf
    assert "perplexity change inf > 1" in found.shortfalls(Floors(perplexity_change=1))


def test_floors_grow_with_what_rounding_does() -> None:
    assert ROUNDED_FLOORS.scaled(1) == pytest.approx(ROUNDED_FLOORS)
    assert ROUNDED_FLOORS.scaled(4) == pytest.approx(Floors(0.96, 0.0032, 0.006))  # twice as far
    assert ROUNDED_FLOORS.scaled(1e6).top1_agreement == 0
    assert FLOAT32_FLOORS.scaled(4) == FLOAT32_FLOORS
