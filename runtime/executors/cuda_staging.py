"""A step's inputs on their way to the GPU: blocks of memory that are copied whole."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagedc.runtime.batch import SAMPLING_DTYPE, Batch

ALIGNMENT = 16  # bytes, of each array of a block

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


class Field(NamedTuple):
    """One array of a block."""

    name: str
    dtype: np.dtype[Any]
    length: int


def token_fields(tokens: int, seqs: int) -> list[Field]:
    """What a step of `tokens` tokens of `seqs` sequences is given."""
    return [
        Field("token_ids", _INT32, tokens),
        Field("positions", _INT32, tokens),
        Field("slot_mapping", _INT64, tokens),
        Field("context_lens", _INT32, seqs),
        Field("query_start_loc", _INT32, seqs + 1),
    ]


def row_fields(rows: int) -> list[Field]:
    """What `rows` rows of logits are given."""
    return [Field("logits_rows", _INT32, rows), Field("sampling", SAMPLING_DTYPE, rows)]


def block_bytes(fields: list[Field]) -> int:
    """Bytes of a block with these arrays."""
    return sum(_aligned(field.length * field.dtype.itemsize) for field in fields)


class InputBlock:
    """Arrays of fixed length that lie together: filled on the host, then copied in one go."""

    def __init__(self, device: Any, address: int, size: int, fields: list[Field]) -> None:
        self.size = size
        self.addresses: dict[str, int] = {}
        self._device, self._address = device, address
        self._host: NDArray[np.uint8] = device.pinned(block_bytes(fields))
        self._arrays: dict[str, NDArray[Any]] = {}
        offset = 0
        for field in fields:
            num_bytes = field.length * field.dtype.itemsize
            self._arrays[field.name] = self._host[offset : offset + num_bytes].view(field.dtype)
            self.addresses[field.name] = address + offset
            offset += _aligned(num_bytes)

    def fill_tokens(self, batch: Batch) -> None:
        """The arrays of `token_fields`; what is behind them stores nothing and belongs to no sequence."""
        num_tokens, num_seqs = len(batch.token_ids), len(batch.context_lens)
        for name in ("token_ids", "positions"):
            self._arrays[name][:num_tokens] = getattr(batch, name)
        slots, lens, starts = (
            self._arrays[name] for name in ("slot_mapping", "context_lens", "query_start_loc")
        )
        slots[:num_tokens] = batch.slot_mapping
        slots[num_tokens:] = -1
        lens[:num_seqs] = batch.context_lens
        lens[num_seqs:] = 0
        starts[: num_seqs + 1] = batch.query_start_loc
        starts[num_seqs + 1 :] = num_tokens

    def fill_rows(self, batch: Batch) -> None:
        """The arrays of `row_fields`; what is behind them takes the likeliest token of row 0."""
        num_rows = len(batch.logits_rows)
        for name in ("logits_rows", "sampling"):
            self._arrays[name][:num_rows] = getattr(batch, name)
            self._arrays[name][num_rows:] = np.zeros((), self._arrays[name].dtype)
        if num_rows < self.size:
            for name in ("forced_token", "mask_row"):
                self._arrays["sampling"][name][num_rows:] = -1

    def copy_in(self) -> None:
        """To the device."""
        if len(self._host):
            self._device.copy_in(self._address, self._host)


class VariableInputs:
    """The sampling arrays whose length no bucket bounds: they grow where they must."""

    FIELDS = (
        ("history_tokens", _INT32),
        ("bias_tokens", _INT32),
        ("bias_values", np.dtype(np.float32)),
        ("allowed_tokens", np.dtype(np.uint32)),
    )
    FIRST_BYTES = 1 << 20

    def __init__(self, device: Any) -> None:
        self.addresses: dict[str, int] = {}
        self._device = device
        self._sizes: dict[str, int] = {}
        self._hosts: dict[str, NDArray[np.uint8]] = {}
        for name, _ in self.FIELDS:
            self._allocate(name, self.FIRST_BYTES)

    def put(self, batch: Batch) -> bool:
        """Copy what a batch has of them; True where one has moved."""
        moved = False
        for name, dtype in self.FIELDS:
            array: NDArray[Any] = getattr(batch, name)
            if not array.size:
                continue
            if array.nbytes > self._sizes[name]:
                self._allocate(name, 2 * array.nbytes)
                moved = True
            host = self._hosts[name][: array.nbytes]
            host.view(dtype)[:] = array.reshape(-1)
            self._device.copy_in(self.addresses[name], host)
        return moved

    def _allocate(self, name: str, num_bytes: int) -> None:
        self._sizes[name] = num_bytes
        self.addresses[name] = self._device.allocate(num_bytes)
        self._hosts[name] = self._device.pinned(num_bytes)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
