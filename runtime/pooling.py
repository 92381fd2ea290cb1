"""Which of a prompt's hidden states make its embedding: named by the server, which imports no numpy."""

import math
from array import array
from typing import Literal, cast, get_args

from pagedc.runtime.errors import RequestError
from pagedc.runtime.manifest import Embedding

Pooling = Literal["", "mean", "last", "cls"]  # "" = no embedding is asked for


def choose_pooling(wanted: str, embedding: Embedding) -> Pooling:
    """What a caller in Python asks for, else the model's own; raises RequestError for an unknown word."""
    if wanted not in get_args(Pooling):
        known = ", ".join(filter(None, get_args(Pooling)))
        raise RequestError(
            f"pooling is {wanted!r}, not one of {known}", param="pooling", code="invalid_value"
        )
    return cast(Pooling, wanted) or embedding.pooling


def check_dimensions(size: int, embedding: Embedding, dimensions: int | None) -> None:
    """Raise RequestError for a size that embeddings neither have nor were trained to be cut to."""
    sizes = embedding.sizes
    if dimensions in (None, size) or (sizes is not None and dimensions in (sizes or range(1, size))):
        return
    others = "cannot be cut" if sizes is None else f"can be cut to {', '.join(map(str, sizes)) or 'less'}"
    raise RequestError(
        f"'dimensions' is not supported: this model's embeddings have {size} and {others}.",
        param="dimensions",
        code="unsupported_parameter",
    )


def unit_embedding(data: bytes, dimensions: int | None = None) -> "array[float]":
    """float32 values, the first `dimensions` of them, made of unit length."""
    embedding = array("f", data)[:dimensions]
    length = math.hypot(*embedding)
    return array("f", (value / length for value in embedding)) if length > 0 else embedding
