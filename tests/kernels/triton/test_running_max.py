import numpy as np
import pytest
import torch
from tests.kernels.state_harness import schedules
from tests.kernels.triton.stateful import run_steps

from pagedc.kernels.reference.running_max import running_max
from pagedc.kernels.triton.launch import Launch
from pagedc.kernels.triton.running_max import RunningMaxSpec, launch_running_max
from pagedc.kernels.triton.state import StateInputs

LENGTHS = (1, 2, 6, 3, 1, 4)


@pytest.mark.parametrize(("channels", "initial"), [(64, -1e38), (5, 0.0), (130, -1.5)])
def test_every_schedule_gives_the_reference_and_the_same_bits(channels: int, initial: float) -> None:
    rng = np.random.default_rng(0)
    spec = RunningMaxSpec(channels=channels, initial=initial)
    inputs = [
        (-rng.random((n, channels), np.float32), rng.standard_normal((n, channels), np.float32))
        for n in LENGTHS
    ]

    def launch(x: list[torch.Tensor], state: StateInputs, out: torch.Tensor, decodes: bool) -> list[Launch]:
        return launch_running_max(spec, x[0], x[1], state, out)

    runs = [
        run_steps(launch, spec.state_floats, inputs, steps, channels) for steps in schedules(LENGTHS).values()
    ]
    for s, (fade, x) in enumerate(inputs):
        expected = running_max(fade, x, np.full(channels, initial))
        np.testing.assert_allclose(runs[0][s], expected, rtol=1e-5, atol=1e-6)
        for other in runs[1:]:
            np.testing.assert_array_equal(other[s], runs[0][s])
