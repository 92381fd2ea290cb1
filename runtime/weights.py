"""Map packed weights into memory: safetensors files, read by a parser that trusts nothing in them.

A package's weights are not hashed each time it is opened, so their headers are checked as if they came from a
stranger: each tensor lies inside its file and apart from the others; those that the manifest names are
aligned, and hold as many bytes as their shape needs.
"""

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pagedc.runtime.errors import PackageError
from pagedc.runtime.manifest import BROKEN_JSON, Weight
from pagedc.runtime.read_ahead import ask_for_huge_pages, populate

MAX_HEADER_BYTES = 100_000_000
ALIGNMENT = 64
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
# Bits that a packed format needs for one element at the very least.
_FORMAT_BITS = {"f32": 32, "bf16": 16, "coded": 12, "int8": 8, "int4": 4}


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one tensor lies, as the header of a safetensors file says it."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]  # from the end of the header

    @property
    def num_bytes(self) -> int:
        """Length of its data."""
        return self.data_offsets[1] - self.data_offsets[0]


class MappedWeights:
    """The tensors of a package, mapped read-only; their addresses are good until `close`."""

    def __init__(self, directory: Path, weights: list[Weight]) -> None:
        """Map every file that `weights` names; raises PackageError for a file that is not what it should
        be.
        """
        self._files = {name: _MappedFile(directory / name) for name in dict.fromkeys(w.file for w in weights)}
        self.addresses = [self._files[weight.file].address_of(weight) for weight in weights]  # in their order
        self._weights = weights

    def arrays(self) -> Iterator[NDArray[np.uint8]]:
        """The bytes of each weight, in their order; none may be kept when this is closed."""
        for weight, address in zip(self._weights, self.addresses, strict=True):
            yield self._files[weight.file].bytes_at(address, weight.name)

    def populate(self) -> None:
        """Have all of them in memory, so that no step waits for their pages."""
        for file in self._files.values():
            file.populate()

    def close(self) -> None:
        """Unmap; the addresses become invalid."""
        self.addresses = []
        for file in self._files.values():
            file.close()
        self._files = {}


class _MappedFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise PackageError(f"{path}: cannot be mapped: {error}; copy the package again") from None
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._address: int = self._bytes.ctypes.data  # of a page
        # Into huge pages where the file system has them: a core reads those 1.4 times as fast. Before
        # anything is read: what the kernel reads ahead with the header would stay in small ones.
        ask_for_huge_pages(self._address, len(self._map))
        self._tensors, self._data_start = parse_header(self._map, path)

    def address_of(self, weight: Weight) -> int:
        tensor = self._tensors.get(weight.name)
        if tensor is None:
            raise PackageError(
                f"{self._path}: lacks tensor {weight.name} of the manifest; copy the package again"
            )
        bits = _FORMAT_BITS.get(weight.format.split("_")[0])
        if bits is not None and tensor.num_bytes * 8 < prod(weight.shape) * bits:
            raise PackageError(
                f"{self._path}: tensor {weight.name} has {tensor.num_bytes} bytes, too few for "
                f"{weight.format} of shape {weight.shape}; compile the package again"
            )
        begin = self._data_start + tensor.data_offsets[0]
        if begin % ALIGNMENT:  # what the manifest does not name is padding, and lies anywhere
            raise PackageError(
                f"{self._path}: tensor {weight.name} begins at byte {begin}, not a multiple of {ALIGNMENT}; "
                "compile the package again"
            )
        return self._address + begin

    def populate(self) -> None:
        populate(self._address, len(self._map))

    def bytes_at(self, address: int, name: str) -> NDArray[np.uint8]:
        begin = address - self._address
        return self._bytes[begin : begin + self._tensors[name].num_bytes]

    def close(self) -> None:
        del self._bytes  # the map cannot be closed while an array looks into it
        self._map.close()


def parse_header(data: "mmap.mmap | bytes", path: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of a safetensors file and where its data begins; raises PackageError naming what is
    wrong.
    """
    if len(data) < 8:
        raise PackageError(f"{path}: {len(data)} bytes are no safetensors file; copy the package again")
    header_len = int.from_bytes(data[:8], "little")
    data_start = 8 + header_len
    if header_len > MAX_HEADER_BYTES or data_start > len(data):
        raise PackageError(f"{path}: its header of {header_len} bytes does not fit; copy the package again")
    try:
        header = msgspec.json.decode(data[8:data_start], type=dict[str, dict[str, Any]])
        header.pop("__metadata__", None)
        tensors = msgspec.convert(header, dict[str, Tensor])
    except BROKEN_JSON as error:
        raise PackageError(
            f"{path}: its header is not safetensors': {error}; copy the package again"
        ) from None
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        problem = _find_problem(tensor, len(data) - data_start, end)
        if problem is not None:
            raise PackageError(f"{path}: tensor {name} {problem}; copy or compile the package again")
        end = tensor.data_offsets[1]
    return tensors, data_start


def _find_problem(tensor: Tensor, data_len: int, previous_end: int) -> str | None:
    begin, end = tensor.data_offsets
    bits = _ITEM_BITS.get(tensor.dtype)
    if bits is None:
        return f"has the unknown dtype {tensor.dtype}"
    if not 0 <= begin <= end <= data_len:
        return f"lies at {begin} to {end}, outside the file's {data_len} bytes of data"
    if begin < previous_end:
        return f"begins at {begin}, inside the tensor before it"
    if any(size < 0 for size in tensor.shape) or prod(tensor.shape) * bits != (end - begin) * 8:
        return f"has {end - begin} bytes, not those of {tensor.dtype} {tensor.shape}"
    return None
