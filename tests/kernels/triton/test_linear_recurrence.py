import numpy as np
import pytest
import torch
from tests.kernels.state_harness import schedules
from tests.kernels.test_linear_recurrence import CASES, Case, inputs_of
from tests.kernels.triton.device import tensor
from tests.kernels.triton.stateful import run_steps

from pagedc.kernels.reference.linear_recurrence import linear_recurrence
from pagedc.kernels.triton.launch import Launch
from pagedc.kernels.triton.linear_recurrence import (
    RecurrenceInputs,
    RecurrenceSpec,
    defaults,
    launch_linear_recurrence,
)
from pagedc.kernels.triton.state import StateInputs

LENGTHS = (1, 2, 6, 3, 1, 4)
WIDE = Case(1, 1, 200, 9, "HEAD", is_delta=True)  # several tiles of columns, the last in part


@pytest.mark.parametrize("case", [*CASES, WIDE], ids=str)
def test_every_schedule_gives_the_reference_and_the_same_bits(case: Case) -> None:
    rng = np.random.default_rng(0)
    spec = RecurrenceSpec(
        heads=case.heads,
        key_heads=case.key_heads,
        key_dim=case.key_dim,
        value_dim=case.value_dim,
        decay=case.decay,  # type: ignore[arg-type]
        is_delta=case.is_delta,
    )
    matrix = (case.heads, case.key_dim, case.value_dim)
    rate = -rng.uniform(0, 3, matrix).astype(np.float32) if case.decay == "EXP_COLUMN" else None
    inputs = [inputs_of(case, n, rng) for n in LENGTHS]
    width = case.heads * case.value_dim

    def launch(x: list[torch.Tensor], state: StateInputs, out: torch.Tensor, decodes: bool) -> list[Launch]:
        q, k, v, decay, *beta = x
        rows = RecurrenceInputs(
            q=q, k=k, v=v, decay=decay, beta=beta[0] if beta else None,
            rate=None if rate is None else tensor(rate),
        )  # fmt: skip
        return launch_linear_recurrence(spec, defaults(spec), rows, state, out)

    given = [[x for x in arrays if x is not None] for arrays in inputs]
    runs = [
        run_steps(launch, spec.state_floats, given, steps, width) for steps in schedules(LENGTHS).values()
    ]
    expected = [
        linear_recurrence(q, k, v, decay, np.zeros(matrix), rate, beta)[0].reshape(-1, width)
        for q, k, v, decay, beta in inputs
    ]
    largest = max(np.abs(each).max() for each in expected)
    for s in range(len(LENGTHS)):
        np.testing.assert_allclose(runs[0][s], expected[s], atol=2e-6 * largest)
        for other in runs[1:]:
            np.testing.assert_array_equal(other[s], runs[0][s])
