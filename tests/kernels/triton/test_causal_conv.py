import numpy as np
import pytest
import torch
from tests.kernels.state_harness import schedules
from tests.kernels.triton.device import tensor
from tests.kernels.triton.stateful import run_steps

from pagedc.kernels.reference.causal_conv import causal_conv
from pagedc.kernels.triton.causal_conv import ConvSpec, launch_causal_conv
from pagedc.kernels.triton.launch import Launch, config
from pagedc.kernels.triton.state import StateInputs

LENGTHS = (1, 2, 11, 4, 3, 6)
CONFIG = config(4, 1, BLOCK_T=4, BLOCK_C=64)


@pytest.mark.parametrize(("channels", "taps"), [(64, 4), (5, 3), (130, 2), (16, 1), (3, 6)])
def test_every_schedule_gives_the_reference_and_the_same_bits(channels: int, taps: int) -> None:
    rng = np.random.default_rng(0)
    spec = ConvSpec(channels=channels, taps=taps)
    weight = rng.standard_normal((taps, channels), np.float32)
    inputs = [(rng.standard_normal((n, channels), np.float32),) for n in LENGTHS]

    def launch(x: list[torch.Tensor], state: StateInputs, out: torch.Tensor, decodes: bool) -> list[Launch]:
        return launch_causal_conv(spec, CONFIG, x[0], tensor(weight), state, out, decodes=decodes)

    runs = [
        run_steps(launch, spec.state_floats, inputs, steps, channels) for steps in schedules(LENGTHS).values()
    ]
    for s, (x,) in enumerate(inputs):
        expected, _ = causal_conv(x, weight, np.zeros((taps - 1, channels)))
        np.testing.assert_allclose(runs[0][s], expected, rtol=1e-5, atol=1e-5)
        for other in runs[1:]:
            np.testing.assert_array_equal(other[s], runs[0][s])
