"""Write weights as one safetensors file to be mapped: every tensor begins at a multiple of 64 bytes.

The format allows no holes, so what lies between two tensors is a tensor of its own, `_pad.N`. Names, sizes
and order are known before the first byte is packed, so tensors are written as they come and one is in
memory at a time. They go to the file in blocks of a huge page's size and place: ext4 since Linux 6.16, as
other file systems, caches each such write in one huge page, and a core that maps it misses its TLB no more
(it reads 30 GB/s instead of 22).
"""

import json
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pagedc.compiler.errors import InternalError

ALIGNMENT = 64  # bytes: a cache line, and the width of an AVX-512 vector
PAD_PREFIX = "_pad."
BLOCK_BYTES = 2 << 20  # of a huge page on x86-64, and on Arm with pages of 4 KiB


class WeightEntry(NamedTuple):
    """One tensor of the file. Packed tensors are one axis of "U8"."""

    name: str
    dtype: str  # in safetensors' words: "U8", "F32", "BF16", …
    shape: tuple[int, ...]
    num_bytes: int


def write_weights(path: Path, entries: Sequence[WeightEntry], arrays: Iterable[npt.NDArray[Any]]) -> None:
    """Write `arrays`, one per entry and in their order, to `path`. The same input gives the same bytes.

    Raises InternalError where an array has not the size of its entry, OSError where the disk is full.
    """
    header, gaps = _header(entries)
    with path.open("wb", buffering=0) as raw, _Blocks(raw) as file:
        file.write(header)
        for entry, gap, array in zip(entries, gaps, _counted(arrays, len(entries)), strict=True):
            if array.nbytes != entry.num_bytes:
                raise InternalError(f"{entry.name}: {array.nbytes} bytes packed, {entry.num_bytes} planned")
            if array.nbytes:
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            file.write(bytes(gap))


class _Blocks:
    """What is written to a file, in blocks that begin at multiples of BLOCK_BYTES."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._block = memoryview(bytearray(BLOCK_BYTES))
        self._filled = 0

    def __enter__(self) -> "_Blocks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._flush()

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while len(rest):
            part, rest = rest[: BLOCK_BYTES - self._filled], rest[BLOCK_BYTES - self._filled :]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == BLOCK_BYTES:
                self._flush()

    def _flush(self) -> None:
        rest = self._block[: self._filled]
        while len(rest):
            rest = rest[self._file.write(rest) :]
        self._filled = 0


def _header(entries: Sequence[WeightEntry]) -> tuple[bytes, list[int]]:
    """The file up to its data, and the padding after each tensor in bytes."""
    table: dict[str, Any] = {"__metadata__": {"format": "pagedc"}}
    gaps: list[int] = []
    offset = 0
    for index, entry in enumerate(entries):
        if entry.name in table or entry.name.startswith(PAD_PREFIX):
            raise InternalError(f"{entry.name}: its name is taken")
        end = offset + entry.num_bytes
        table[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        gap = -end % ALIGNMENT if index + 1 < len(entries) else 0
        if gap:
            table[f"{PAD_PREFIX}{index}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [end, end + gap]}
        gaps.append(gap)
        offset = end + gap
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, gaps


def _counted(arrays: Iterable[npt.NDArray[Any]], expected: int) -> Iterable[npt.NDArray[Any]]:
    """The arrays; raises where there are more or fewer than expected."""
    count = 0
    for array in arrays:
        count += 1
        if count > expected:
            raise InternalError(f"more than {expected} arrays for {expected} entries")
        yield array
    if count < expected:
        raise InternalError(f"{count} arrays for {expected} entries")
