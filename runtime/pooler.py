"""Hidden states of a prompt's tokens to one embedding."""

import numpy as np

from pagedc.runtime.batch import Float32
from pagedc.runtime.pooling import Pooling


class Pooler:
    """Takes the rows of one sequence in order, in chunks of any length: the same bits come of it."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._total: Float32 | None = None
        self._num_rows = 0

    def add(self, rows: Float32) -> None:
        """The next tokens' hidden states, [num_rows, hidden_size]."""
        for row in rows:
            if self._total is None or self._pooling == "last":
                self._total = row.astype(np.float64)
            elif self._pooling == "mean":
                self._total += row  # one after the other: chunks do not show
            self._num_rows += 1

    def embedding(self) -> bytes:
        """Float32, of what was added."""
        assert self._total is not None
        divisor = self._num_rows if self._pooling == "mean" else 1
        return (self._total / divisor).astype(np.float32).tobytes()
