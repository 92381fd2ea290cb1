"""The largest of what came before, which fades, and what comes, in numpy."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]


def running_max(fade: Float, x: Float, state: Float) -> NDArray[np.float64]:
    """m[t] = max(m[t - 1] + fade[t], x[t]), m[-1] being `state`. fade, x [T, channels], state [channels]."""
    out = np.zeros(x.shape)
    for t in range(len(x)):
        state = np.maximum(state + fade[t].astype(np.float64), x[t])
        out[t] = state
    return out
