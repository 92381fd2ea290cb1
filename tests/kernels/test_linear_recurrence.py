from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from tests.kernels.harness import supported_marches
from tests.kernels.state_harness import Float32, compile_cases, run_steps, schedules

from pagedc.kernels.reference.linear_recurrence import linear_recurrence


@dataclass(frozen=True, slots=True)
class Case:
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    decay: str
    is_delta: bool = False


# Every decay with and without the delta rule, widths that are no whole vectors; what models have comes first.
CASES = (
    Case(6, 2, 16, 64, "HEAD"),  # state-space heads in groups
    Case(4, 2, 24, 16, "HEAD", is_delta=True),  # gated delta rule
    Case(2, 2, 16, 33, "ROW", is_delta=True),
    Case(1, 1, 7, 90, "EXP_COLUMN"),  # a selective scan: one head, a column a channel
    Case(1, 1, 1, 130, "COLUMN"),  # a gated sum of each channel
    Case(3, 1, 5, 48, "ROW"),
    Case(2, 1, 3, 20, "COLUMN", is_delta=True),
    Case(2, 2, 9, 5, "EXP_COLUMN", is_delta=True),
)
LENGTHS = (1, 2, 19, 8, 3, 12)

CASE = """
struct Config{i} {{
  static constexpr int num_heads = {c.heads}, num_key_heads = {c.key_heads};
  static constexpr int key_dim = {c.key_dim}, value_dim = {c.value_dim};
  static constexpr Decay decay = Decay::{c.decay};
  static constexpr bool is_delta = {is_delta};
}};
extern "C" int64_t size_{i}() {{ return linear_recurrence_state_size<Config{i}>(); }}
extern "C" void run_{i}(void* team, const pagedc_batch* batch, const float* const* in, const int64_t* ld,
                        void* state, float* out, int64_t ldo) {{
  const RecurrenceInputs inputs = {{
    {{in[0], ld[0]}}, {{in[1], ld[1]}}, {{in[2], ld[2]}}, {{in[3], ld[3]}}, in[5], {{in[4], ld[4]}}}};
  static_cast<Team*>(team)->run([&](Worker& worker) {{
    linear_recurrence<Config{i}>(worker, *batch, inputs, state, out, ldo);
  }});
}}
"""


def inputs_of(
    case: Case, num_tokens: int, rng: np.random.Generator
) -> tuple[Float32, Float32, Float32, Float32, Float32 | None]:
    """q, k, v, decay, beta."""
    rows, columns = {
        "HEAD": (1, 1),
        "ROW": (case.key_dim, 1),
        "COLUMN": (1, case.value_dim),
        "EXP_COLUMN": (1, case.value_dim),
    }[case.decay]
    q, k = (rng.standard_normal((num_tokens, case.key_heads, case.key_dim), np.float32) for _ in range(2))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)  # the delta rule grows without bound otherwise
    v = rng.standard_normal((num_tokens, case.heads, case.value_dim), np.float32)
    decay = rng.uniform(0.2, 1, (num_tokens, case.heads, rows, columns)).astype(np.float32)
    beta = rng.uniform(0, 1, (num_tokens, case.heads)).astype(np.float32)
    return q, k, v, decay, beta if case.is_delta else None


@pytest.mark.parametrize("march", supported_marches())
def test_every_schedule_gives_the_reference_and_the_same_bits(march: str) -> None:
    cases = CASES if march == "native" else CASES[:4]  # compiling takes most of the time
    sources = [CASE.format(i=i, c=case, is_delta=str(case.is_delta).lower()) for i, case in enumerate(cases)]
    library = compile_cases("linear_recurrence.h", sources, march)
    rng = np.random.default_rng(0)
    for i, case in enumerate(cases):
        matrix = (case.heads, case.key_dim, case.value_dim)
        rate = -rng.uniform(0, 3, matrix).astype(np.float32) if case.decay == "EXP_COLUMN" else None
        inputs = [inputs_of(case, n, rng) for n in LENGTHS]
        width = case.heads * case.value_dim
        runs = [
            run_steps(library, i, inputs, [rate], steps, width, num_threads=threads)
            for steps, threads in product(schedules(LENGTHS).values(), (1, 3))
        ]
        for s, (q, k, v, decay, beta) in enumerate(inputs):
            expected, _ = linear_recurrence(q, k, v, decay, np.zeros(matrix), rate, beta)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(runs[0][s] / scale, expected.reshape(-1, width) / scale, atol=2e-6)
            for other in runs[1:]:
                np.testing.assert_array_equal(other[s], runs[0][s])
