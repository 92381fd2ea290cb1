import numpy as np
import pytest
from tests.kernels.harness import supported_marches
from tests.kernels.linear_harness import CASES, Case, matrix, run_embedding


@pytest.mark.parametrize("march", supported_marches())
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symbol)
def test_rows_are_dequantised_exactly(march: str, case: Case) -> None:
    ids = np.random.default_rng(0).integers(0, case.rows, 40, np.int32)
    ids[1], ids[2] = 0, case.rows - 1
    out = run_embedding(march, case, ids)
    np.testing.assert_array_equal(out[1:-1], matrix(case).weights[ids[1:-1]])
    assert not out[0].any()
    assert not out[-1].any()
