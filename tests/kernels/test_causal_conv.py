from itertools import product

import numpy as np
import pytest
from tests.kernels.harness import supported_marches
from tests.kernels.state_harness import compile_cases, run_steps, schedules

from pagedc.kernels.reference.causal_conv import causal_conv

CASES = ((64, 4), (5, 3), (130, 2), (33, 7), (16, 1))  # channels, taps
LENGTHS = (1, 2, 23, 9, 3, 14)

CASE = """
extern "C" int64_t size_{i}() {{ return causal_conv_state_size<{channels}, {taps}>(); }}
extern "C" void run_{i}(void* team, const pagedc_batch* batch, const float* const* in, const int64_t* ld,
                        void* state, float* out, int64_t ldo) {{
  static_cast<Team*>(team)->run([&](Worker& worker) {{
    causal_conv<{channels}, {taps}>(worker, *batch, in[0], ld[0], in[1], state, out, ldo);
  }});
}}
"""


@pytest.mark.parametrize("march", supported_marches())
def test_every_schedule_gives_the_reference_and_the_same_bits(march: str) -> None:
    cases = [CASE.format(i=i, channels=c, taps=k) for i, (c, k) in enumerate(CASES)]
    library = compile_cases("causal_conv.h", cases, march)
    rng = np.random.default_rng(0)
    for i, (channels, taps) in enumerate(CASES):
        weight = rng.standard_normal((taps, channels), np.float32)
        inputs = [(rng.standard_normal((n, channels), np.float32),) for n in LENGTHS]
        runs = [
            run_steps(library, i, inputs, [weight], steps, channels, num_threads=threads)
            for steps, threads in product(schedules(LENGTHS).values(), (1, 3))
        ]
        for s, (x,) in enumerate(inputs):
            expected, _ = causal_conv(x, weight, np.zeros((taps - 1, channels)))
            np.testing.assert_allclose(runs[0][s], expected, rtol=1e-5, atol=1e-5)
            for other in runs[1:]:
                np.testing.assert_array_equal(other[s], runs[0][s])
