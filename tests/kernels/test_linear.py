import numpy as np
import numpy.typing as npt
import pytest
from tests.kernels.harness import supported_marches
from tests.kernels.linear_harness import (
    CASES,
    STRIPED_CASES,
    Case,
    error_bound,
    matrix,
    random_x,
    run_linear,
    team,
)

from pagedc.kernels.reference.linear import linear

NUM_TOKENS = (1, 2, 3, 5, 7, 8, 13, 16, 33, 100, 150)


def relative_error(out: npt.NDArray[np.float32], x: npt.NDArray[np.float32], case: Case) -> float:
    """The largest error over the sum of the products' sizes."""
    weights = matrix(case).weights
    return float(np.max(np.abs(out - linear(x, weights)) / linear(np.abs(x), np.abs(weights))))


@pytest.mark.parametrize("march", supported_marches())
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symbol)
def test_matches_the_reference_and_is_batch_invariant(march: str, case: Case) -> None:
    x = random_x(case, (max(NUM_TOKENS),))
    with team(march, 1) as alone:
        expected = np.concatenate([run_linear(march, alone, case, x[t : t + 1]) for t in range(len(x))])
    assert relative_error(expected, x, case) < error_bound(case)
    for num_threads in (1, 2, 3):
        with team(march, num_threads) as handle:
            for num_tokens in NUM_TOKENS:
                out = run_linear(march, handle, case, x[:num_tokens])
                np.testing.assert_array_equal(out.view(np.uint32), expected[:num_tokens].view(np.uint32))


@pytest.mark.parametrize("march", supported_marches())
@pytest.mark.parametrize("num_tokens", [1, 3, 20])
def test_reads_only_its_columns(march: str, num_tokens: int) -> None:
    for case in CASES:
        x = random_x(case, (num_tokens,))
        with team(march, 2) as handle:
            np.testing.assert_array_equal(
                run_linear(march, handle, case, x, padding=3), run_linear(march, handle, case, x)
            )


@pytest.mark.parametrize("march", supported_marches())
@pytest.mark.parametrize("case", STRIPED_CASES, ids=lambda case: case.symbol)
def test_stripes_are_stored_together_with_the_same_bits(march: str, case: Case) -> None:
    for num_tokens in (1, 5, 33, 150):
        x = random_x(case, (num_tokens,))
        with team(march, 2) as handle:
            plain, striped = (run_linear(march, handle, case, x, kind=kind) for kind in ("linear", "striped"))
        np.testing.assert_array_equal(plain.view(np.uint32), striped.view(np.uint32))


@pytest.mark.parametrize("march", supported_marches())
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symbol)
def test_other_tiles_give_the_same_bits(march: str, case: Case) -> None:
    for num_tokens in (1, 2, 8, 33, 150):
        x = random_x(case, (num_tokens,))
        with team(march, 2) as handle:
            plain, tuned = (run_linear(march, handle, case, x, kind=kind) for kind in ("linear", "tuned"))
        np.testing.assert_array_equal(plain.view(np.uint32), tuned.view(np.uint32))
