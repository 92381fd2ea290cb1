import numpy as np
import pytest
from tests.kernels.harness import supported_marches
from tests.kernels.linear_harness import (
    CASES,
    NUM_EXPERTS,
    Case,
    error_bound,
    experts,
    random_x,
    run_grouped,
    team,
)

from pagedc.kernels.reference.linear import grouped_linear


@pytest.mark.parametrize("march", supported_marches())
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symbol)
@pytest.mark.parametrize("is_shared", [True, False])
def test_matches_the_reference_and_is_batch_invariant(march: str, case: Case, is_shared: bool) -> None:
    num_tokens, top_k = 70, 2
    rng = np.random.default_rng(0)
    expert_ids = np.stack([rng.permutation(NUM_EXPERTS)[:top_k] for _ in range(num_tokens)]).astype(np.int32)
    expert_ids[expert_ids == 3] = 1  # one expert has no rows, one has many
    x = random_x(case, (num_tokens, 1 if is_shared else top_k))
    with team(march, 1) as alone:
        expected = np.concatenate(
            [
                run_grouped(march, alone, 1, case, x[t : t + 1], expert_ids[t : t + 1])
                for t in range(num_tokens)
            ]
        )
    weights = experts(case).weights
    error = np.abs(expected - grouped_linear(x, expert_ids, weights))
    assert np.max(error / grouped_linear(np.abs(x), expert_ids, np.abs(weights))) < error_bound(case)
    for num_threads in (1, 3):
        with team(march, num_threads) as handle:
            for count in (1, 2, 6, 17, num_tokens):
                out = run_grouped(march, handle, num_threads, case, x[:count], expert_ids[:count])
                np.testing.assert_array_equal(out.view(np.uint32), expected[:count].view(np.uint32))
