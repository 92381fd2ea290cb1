import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.kernels.harness import compile_harness, supported_marches

Float64 = npt.NDArray[np.float64]

# Function: float64 reference and the largest error in units in the last place (of a normal result).
FUNCTIONS: dict[str, tuple[Callable[[Float64], Float64], float]] = {
    "exp": (np.exp, 1.1),
    "exp2": (np.exp2, 1.1),
    "expm1": (np.expm1, 2),
    "log": (np.log, 1),
    "log2": (np.log2, 2),
    "log1p": (np.log1p, 2),
    "softplus": (lambda x: np.logaddexp(0, x), 2),
    "sigmoid": (lambda x: np.exp(-np.logaddexp(0, -x)), 2.5),
    "silu": (lambda x: x * np.exp(-np.logaddexp(0, -x)), 3),
    "tanh": (np.tanh, 2.5),
    "erf": (np.vectorize(math.erf, otypes=[np.float64]), 1.5),
}

SOURCE = '#include "vector_math.h"\n' + "".join(
    f"""
extern "C" void {name}_all(const float* x, float* y, int64_t n) {{
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = pagedc::math::{name}(x[i]);
}}
"""
    for name in FUNCTIONS
)


def arguments() -> npt.NDArray[np.float32]:
    """Every exponent of both signs, the range where functions bend, and the special values."""
    patterns = np.arange(0, 2**32, 100_003, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 88.72284, 1e-45], np.float32)
    return np.concatenate([patterns, np.linspace(-20, 20, 40_001, dtype=np.float32), special])


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("march", supported_marches())
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_units_in_the_last_place(name: str, march: str) -> None:
    function = getattr(compile_harness(SOURCE, march), f"{name}_all")
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    x = arguments()
    out = np.empty_like(x)
    function(x.ctypes.data, out.ctypes.data, len(x))
    reference, limit = FUNCTIONS[name]
    expected = reference(x.astype(np.float64))
    if name == "silu":  # its limit; the formula is -inf times 0
        expected[x == -np.inf] = -0.0
    rounded = expected.astype(np.float32)
    special = ~np.isfinite(rounded) | ~np.isfinite(out)
    np.testing.assert_array_equal(out[special], rounded[special])
    # A subnormal result counts in units of the smallest normal's: its factors were rounded there.
    unit = np.spacing(np.maximum(np.abs(rounded), np.float32(2**-118 if name == "silu" else 2**-126)))
    error = np.abs(out - expected)[~special] / unit[~special]
    assert error.max() <= limit, x[~special][error.argmax()]
    assert (np.signbit(out) == np.signbit(rounded))[x == 0].all()


@pytest.mark.parametrize("march", supported_marches())
def test_every_function_vectorises(march: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    compile_harness(SOURCE, march, (f"-fopt-info-vec-optimized={report}",))
    assert report.read_text().count("loop vectorized") >= len(FUNCTIONS)
