from itertools import product

import numpy as np
import pytest
from tests.kernels.harness import supported_marches
from tests.kernels.state_harness import compile_cases, run_steps, schedules

from pagedc.kernels.reference.running_max import running_max

CASES = ((64, -1e38), (5, 0.0), (33, -1.5))  # channels, m before the first token
LENGTHS = (1, 2, 13, 9, 3, 14)

CASE = """
extern "C" int64_t size_{i}() {{ return running_max_state_size<{channels}>(); }}
extern "C" void run_{i}(void* team, const pagedc_batch* batch, const float* const* in, const int64_t* ld,
                        void* state, float* out, int64_t ldo) {{
  static_cast<Team*>(team)->run([&](Worker& worker) {{
    running_max<{channels}>(worker, *batch, in[0], ld[0], in[1], ld[1], {initial}f, state, out, ldo);
  }});
}}
"""


@pytest.mark.parametrize("march", supported_marches())
def test_every_schedule_gives_the_reference_and_the_same_bits(march: str) -> None:
    cases = [CASE.format(i=i, channels=channels, initial=m) for i, (channels, m) in enumerate(CASES)]
    library = compile_cases("running_max.h", cases, march)
    rng = np.random.default_rng(0)
    for i, (channels, initial) in enumerate(CASES):
        inputs = [
            (-rng.random((n, channels), np.float32), rng.standard_normal((n, channels), np.float32))
            for n in LENGTHS
        ]
        runs = [
            run_steps(library, i, inputs, [], steps, channels, num_threads=threads)
            for steps, threads in product(schedules(LENGTHS).values(), (1, 3))
        ]
        for s, (fade, x) in enumerate(inputs):
            expected = running_max(fade, x, np.full(channels, initial))
            np.testing.assert_allclose(runs[0][s], expected, rtol=1e-5, atol=1e-6)
            for other in runs[1:]:
                np.testing.assert_array_equal(other[s], runs[0][s])
