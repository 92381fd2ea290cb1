"""A convolution along a sequence, channel by channel, in numpy."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]


def causal_conv(x: Float, weight: Float, state: Float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """out[t] = Σ_j weight[j] · x[t - (taps - 1) + j]; the inputs before x[0] are `state`, the oldest first.

    x [T, channels], weight [taps, channels], state [taps - 1, channels] → out [T, channels], the next state.
    """
    history = np.concatenate([state, x]).astype(np.float64)
    taps = len(weight)
    windows = np.stack([history[j : j + len(x)] for j in range(taps)])
    return np.einsum("jtc,jc->tc", windows, weight.astype(np.float64)), history[len(x) :]
