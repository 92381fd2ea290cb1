"""A step's inputs on their way to the GPU, and its outputs on their way back.

Two steps may be open at a time, and the second is written while the GPU still reads the first: what lies on
the host exists twice, and the steps take turns. On the GPU it exists once, since its stream does one thing
after the other.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagedc.runtime.batch import SAMPLING_DTYPE, Batch, Int32

ALIGNMENT = 16  # bytes, of each array of a block
TURNS = 2

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
        Field("state_slots", _INT32, seqs),
    ]


def row_fields(rows: int) -> list[Field]:
    """What `rows` rows of logits are given."""
    return [Field("logits_rows", _INT32, rows), Field("sampling", SAMPLING_DTYPE, rows)]


def block_bytes(fields: list[Field]) -> int:
    """Bytes of a block with these arrays."""
    return sum(_aligned(field.length * field.dtype.itemsize) for field in fields)


class DoubleBuffer:
    """Pinned memory for one block of any size up to the largest, once for each turn."""

    def __init__(self, device: Any, address: int, num_bytes: int) -> None:
        self.device, self.address = device, address  # on the GPU
        self.hosts: list[NDArray[np.uint8]] = [device.pinned(num_bytes) for _ in range(TURNS)]


class InputBlock:
    """Arrays of fixed length that lie together: filled on the host, then copied in one go."""

    def __init__(self, buffer: DoubleBuffer, size: int, fields: list[Field]) -> None:
        self.size = size
        self.addresses: dict[str, int] = {}
        self._buffer = buffer
        self._arrays: list[dict[str, NDArray[Any]]] = [{} for _ in buffer.hosts]
        self._hosts = [host[: block_bytes(fields)] for host in buffer.hosts]
        offset = 0
        for field in fields:
            num_bytes = field.length * field.dtype.itemsize
            for host, arrays in zip(self._hosts, self._arrays, strict=True):
                arrays[field.name] = host[offset : offset + num_bytes].view(field.dtype)
            self.addresses[field.name] = buffer.address + offset
            offset += _aligned(num_bytes)

    def put_tokens(self, turn: int, batch: Batch) -> None:
        """Send the arrays of `token_fields`; what is behind them stores nothing, and is no sequence's."""
        arrays = self._arrays[turn]
        num_tokens, num_seqs = len(batch.token_ids), len(batch.context_lens)
        for name in ("token_ids", "positions"):
            arrays[name][:num_tokens] = getattr(batch, name)
        arrays["slot_mapping"][:num_tokens] = batch.slot_mapping
        arrays["slot_mapping"][num_tokens:] = -1
        arrays["token_ids"][num_tokens:] = 0
        arrays["context_lens"][:num_seqs] = batch.context_lens
        arrays["context_lens"][num_seqs:] = 0
        arrays["state_slots"][:num_seqs] = batch.state_slots
        arrays["query_start_loc"][: num_seqs + 1] = batch.query_start_loc
        arrays["query_start_loc"][num_seqs + 1 :] = num_tokens
        self._copy_in(turn)

    def put_rows(self, turn: int, batch: Batch) -> None:
        """Send the arrays of `row_fields`; what is behind them takes the likeliest token of row 0."""
        arrays, num_rows = self._arrays[turn], len(batch.logits_rows)
        for name in ("logits_rows", "sampling"):
            arrays[name][:num_rows] = getattr(batch, name)
            arrays[name][num_rows:] = np.zeros((), arrays[name].dtype)
        if num_rows < self.size:
            for name in ("forced_token", "mask_row"):
                arrays["sampling"][name][num_rows:] = -1
        self._copy_in(turn)

    def _copy_in(self, turn: int) -> None:
        if len(self._hosts[turn]):
            self._buffer.device.copy_in(self._buffer.address, self._hosts[turn])


class BlockTables:
    """The block tables, which have a row of fixed width on the GPU."""

    def __init__(self, device: Any, address: int, pitch: int, max_seqs: int) -> None:
        self._buffer = DoubleBuffer(device, address, pitch * max_seqs)
        self._pitch = pitch

    def put(self, turn: int, tables: Int32) -> None:
        """Send [S, width]: as many columns as the longest sequence has blocks."""
        host = self._buffer.hosts[turn][: tables.nbytes].view(_INT32).reshape(tables.shape)
        host[:] = tables
        self._buffer.device.copy_rows(self._buffer.address, self._pitch, host)


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
        self._device = device
        self._buffers: dict[str, DoubleBuffer] = {}
        for name, _ in self.FIELDS:
            self._allocate(name, self.FIRST_BYTES)

    @property
    def addresses(self) -> dict[str, int]:
        """Where they are now."""
        return {name: buffer.address for name, buffer in self._buffers.items()}

    def put(self, turn: int, batch: Batch) -> bool:
        """Send what a batch has of them; True where one has moved."""
        moved = False
        for name, dtype in self.FIELDS:
            array: NDArray[Any] = getattr(batch, name)
            if not array.size:
                continue
            if array.nbytes > len(self._buffers[name].hosts[turn]):
                self._allocate(name, 2 * array.nbytes)
                moved = True
            buffer = self._buffers[name]
            host = buffer.hosts[turn][: array.nbytes]
            host.view(dtype)[:] = array.reshape(-1)
            self._device.copy_in(buffer.address, host)
        return moved

    def _allocate(self, name: str, num_bytes: int) -> None:
        self._buffers[name] = DoubleBuffer(self._device, self._device.allocate(num_bytes), num_bytes)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
