"""The header of a GGUF file, checked value by value before anything is believed; tensors stay memory-mapped.

The `gguf` package's own reader is not used for files of strangers: it trusts every count and length, and
makes a numpy array for each string (3 s for a vocabulary of 49,152, against 0.05 s here). Its tables of
types and block sizes are.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.model_name import MAGIC

VERSIONS = (2, 3)
MAX_DIMS = 4
MAX_KEY = 65_535  # bytes, by the format
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}  # type → struct
STRING, ARRAY = 8, 9
ALIGNMENT = "general.alignment"


class GGUFTensor(NamedTuple):
    """Where a tensor lies in the file."""

    type: GGMLQuantizationType
    shape: tuple[int, ...]  # outermost axis first
    offset: int  # bytes from the start of the file
    num_bytes: int


class GGUFFile:
    """Metadata and tensors of one file."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError, one line, for anything that is not a whole little-endian GGUF file."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        try:
            self._read()
        except _MalformedError as error:
            raise CheckpointError(f"{path}: not a whole GGUF file: {error}") from error

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor as [rows, bytes of a row], without a copy."""
        tensor = self.tensors[name]
        flat = np.frombuffer(self._data, dtype=np.uint8, count=tensor.num_bytes, offset=tensor.offset)
        return flat.reshape(math.prod(tensor.shape[:-1]), -1)

    def _read(self) -> None:
        cursor = _Cursor(self._data)
        if cursor.bytes(4) != MAGIC:
            raise _MalformedError("it does not begin with GGUF")
        version = cursor.scalar("I")
        if version not in VERSIONS:
            order = " (big-endian)" if version & 0xFFFF == 0 else ""
            raise _MalformedError(f"version {version}{order}, not one of {VERSIONS}")
        num_tensors = cursor.count("Q", 24)
        num_values = cursor.count("Q", 13)
        self.metadata: dict[str, Any] = {}
        for _ in range(num_values):
            key = cursor.string(MAX_KEY)
            if key in self.metadata:
                raise _MalformedError(f"{key!r} is there twice")
            self.metadata[key] = _value(cursor, cursor.scalar("I"), key)
        infos = [_tensor_info(cursor) for _ in range(num_tensors)]
        alignment = self.metadata.get(ALIGNMENT, 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _MalformedError(f"{ALIGNMENT} is {alignment!r}, not a power of two")
        start = -(-cursor.position // alignment) * alignment
        self.tensors: dict[str, GGUFTensor] = {}
        for name, tensor in infos:
            if name in self.tensors:
                raise _MalformedError(f"tensor {name!r} is there twice")
            if tensor.offset % alignment:
                raise _MalformedError(f"tensor {name!r} lies at {tensor.offset}, not aligned to {alignment}")
            if start + tensor.offset + tensor.num_bytes > len(self._data):
                raise _MalformedError(f"tensor {name!r} ends after the file does; it is truncated")
            self.tensors[name] = tensor._replace(offset=start + tensor.offset)


class _MalformedError(Exception):
    """What is wrong with a file, without its name."""


class _Cursor:
    """Reads forward; never past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> int:
        """Step over `size` bytes and return where they begin."""
        start = self.position
        if size > len(self.data) - start:
            raise _MalformedError(f"{size} bytes wanted at {start}, {len(self.data) - start} left")
        self.position += size
        return start

    def bytes(self, size: int) -> bytes:
        start = self.take(size)
        return self.data[start : start + size]

    def scalar(self, code: str) -> Any:
        return struct.unpack_from(f"<{code}", self.data, self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, code: str, item_size: int) -> int:
        """A count of items of at least `item_size` bytes each, which must fit in what is left."""
        count = self.scalar(code)
        if count * item_size > len(self.data) - self.position:
            raise _MalformedError(f"a count of {count} at {self.position}, more than the file can hold")
        return int(count)

    def string(self, limit: int | None = None) -> str:
        size = self.count("Q", 1)
        if limit is not None and size > limit:
            raise _MalformedError(f"a name of {size} bytes at {self.position}")
        try:
            return self.bytes(size).decode()
        except UnicodeDecodeError as error:
            raise _MalformedError(f"a string at {self.position} is not UTF-8") from error


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind in SCALARS:
        return cursor.scalar(SCALARS[kind])
    if kind == STRING:
        return cursor.string()
    if kind != ARRAY:
        raise _MalformedError(f"{key!r} is of unknown type {kind}")
    item = cursor.scalar("I")
    if item == STRING:
        return [cursor.string() for _ in range(cursor.count("Q", 8))]
    if item not in SCALARS:
        raise _MalformedError(f"{key!r} is an array of type {item}")
    size = struct.calcsize(f"<{SCALARS[item]}")
    count = cursor.count("Q", size)
    return list(struct.unpack_from(f"<{count}{SCALARS[item]}", cursor.data, cursor.take(count * size)))


def _tensor_info(cursor: _Cursor) -> tuple[str, GGUFTensor]:
    """One row of the tensor table, its offset still relative to the data."""
    name = cursor.string(MAX_KEY)
    num_dims = cursor.scalar("I")
    if not 0 < num_dims <= MAX_DIMS:
        raise _MalformedError(f"tensor {name!r} has {num_dims} axes")
    shape = tuple(int(cursor.scalar("Q")) for _ in range(num_dims))[::-1]
    kind = cursor.scalar("I")
    offset = int(cursor.scalar("Q"))
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise _MalformedError(f"tensor {name!r} is of unknown type {kind}") from error
    if min(shape) == 0 or shape[-1] % block:
        raise _MalformedError(f"tensor {name!r} has shape {list(shape)}, not whole blocks of {block}")
    return name, GGUFTensor(
        GGMLQuantizationType(kind), shape, offset, math.prod(shape) // block * block_bytes
    )
