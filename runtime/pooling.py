"""Which of a prompt's hidden states make its embedding: named by the server, which imports no numpy."""

from typing import Literal

Pooling = Literal["", "mean", "last", "cls"]  # "" = no embedding is asked for
