"""Scalar functions that printed row kernels call, where Triton has none or not the one that is meant.

Inputs and results are float32 (or int32 for the two divisions) of any shape. Errors are relative, measured
against numpy in float64.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """tanh(x): a series near 0, where 1 - exp(-2x) would lose digits. Error ≤ 5e-7."""
    a = tl.abs(x)
    e = tl.exp(-2.0 * a)
    far = (1.0 - e) / (1.0 + e)
    s = a * a
    near = a * (1.0 + s * (-0.33333333 + s * (0.13333333 + s * (-0.053968254 + s * 0.021869488))))
    value = tl.where(a < 0.25, near, far)
    return tl.where(x < 0, -value, value)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def log1p(x):
    """log(1 + x), with the digits that 1 + x drops put back (Kahan)."""
    u = 1.0 + x
    d = u - 1.0
    is_small = d == 0.0
    return tl.where(is_small, x, tl.log(u) * (x / tl.where(is_small, 1.0, d)))


@triton.jit
def power(x, y):
    """x to the power of y; x < 0 wants a whole y."""
    magnitude = tl.exp2(y * tl.log2(tl.abs(x)))
    is_odd = (tl.floor(y * 0.5) * 2.0 != y) & (tl.floor(y) == y)
    signed = tl.where((x < 0) & is_odd, -magnitude, magnitude)
    return tl.where(y == 0.0, 1.0, signed)


@triton.jit
def modulo(x, y):
    """x - floor(x / y) * y."""
    return x - tl.floor(x / y) * y


@triton.jit
def modulo_int(x, y):
    """The remainder of int32 with the sign of y."""
    r = x % y
    return tl.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)


@triton.jit
def floor_divide(x, y):
    """floor(x / y)."""
    return tl.floor(x / y)


@triton.jit
def floor_divide_int(x, y):
    """The quotient of int32, rounded down."""
    q = x // y
    r = x - q * y
    return tl.where((r != 0) & ((r < 0) != (y < 0)), q - 1, q)
