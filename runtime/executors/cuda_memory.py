"""What lies on the GPU for as long as a package is open, and how model.py names it."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedc.runtime.config import EngineConfig
from pagedc.runtime.executors.cuda_staging import (
    BlockTables,
    DoubleBuffer,
    block_bytes,
    row_fields,
    token_fields,
)
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import MAX_LOGPROBS

CHUNK_BYTES = 64 << 20  # of weights on their way through pinned memory

# What a row leaves: name, type, values.
OUTPUTS: tuple[tuple[str, type[Any], int], ...] = (
    ("token_ids_out", np.int32, 1),
    ("logprobs_out", np.float32, 1),
    ("top_ids_out", np.int32, MAX_LOGPROBS),
    ("top_logprobs_out", np.float32, MAX_LOGPROBS),
)


def upload_weights(package: Package, device: Any) -> list[int]:
    """The address of each weight, in the manifest's order."""
    weights = package.map_weights()
    try:
        return _upload(weights.arrays(), device)
    finally:
        weights.close()


def _upload(arrays: Iterable[NDArray[np.uint8]], device: Any) -> list[int]:
    """Through two buffers of pinned memory: one is filled while the other is copied."""
    buffers = [device.pinned(CHUNK_BYTES) for _ in range(2)]
    addresses = []
    num_copies = 0
    for source in arrays:
        address = device.allocate(len(source))
        addresses.append(address)
        for start in range(0, len(source), CHUNK_BYTES):
            chunk = source[start : start + CHUNK_BYTES]
            turn = num_copies % 2
            buffer = buffers[turn][: len(chunk)]
            device.wait(turn)  # until it has been read
            np.copyto(buffer, chunk)
            device.copy_in(address + start, buffer)
            device.mark(turn)
            num_copies += 1
    device.synchronize()
    return addresses


class Arenas:
    """Activations, KV cache, state, scratch, and the places of inputs and outputs."""

    def __init__(self, device: Any, model: Any, table: Any, config: EngineConfig) -> None:
        self.max_tokens: int = table.bucket("T", config.max_num_batched_tokens)
        self.max_rows: int = table.bucket("R", config.max_num_rows)
        self.max_seqs: int = table.buckets["S"][-1]
        pitch = 4 * model.MAX_BLOCKS_PER_SEQ
        self._device = device
        self.token_base: int = device.allocate(model.TOKEN_BYTES * self.max_tokens)
        self.row_base: int = device.allocate(model.ROW_BYTES * self.max_rows)
        self.caches: list[tuple[int, ...]] = [
            tuple(device.allocate(num_bytes * config.num_blocks) for num_bytes in layer)
            for layer in model.BLOCK_BYTES
        ]
        self.states: list[int] = [
            device.allocate(num_bytes * config.max_num_seqs)
            for num_bytes in getattr(model, "STATE_BYTES", ())
        ]
        self.inputs = {
            "block_tables": device.allocate(pitch * self.max_seqs),
            "scratch": device.allocate(model.SCRATCH_BYTES),
            "counters": device.allocate(model.COUNTER_BYTES),
        }
        self.block_tables = BlockTables(device, self.inputs["block_tables"], pitch, self.max_seqs)
        self.token_inputs = self._buffer(block_bytes(token_fields(self.max_tokens, self.max_seqs)))
        self.row_inputs = self._buffer(block_bytes(row_fields(self.max_rows)))
        row_bytes = sum(4 * count for _, _, count in OUTPUTS)
        self._outputs = self._buffer(row_bytes * self.max_rows)
        self.logits = self.row_base + model.LOGITS_PLACE * self.max_rows
        self._row_bytes = row_bytes

    def output_places(self, rows: int) -> dict[str, int]:
        """Where a step of `rows` rows leaves what it chose: the ids at the same place for any number of rows,
        since the step after it may look them up.
        """
        return {name: self._outputs.address + offset for name, _, _, offset in _output_layout(rows)}

    def output_arrays(self, turn: int, rows: int) -> dict[str, NDArray[Any]]:
        """The same on the host."""
        arrays = {}
        for name, dtype, count, offset in _output_layout(rows):
            array = self._outputs.hosts[turn][offset : offset + 4 * rows * count].view(dtype)
            arrays[name] = array if count == 1 else array.reshape(rows, count)
        return arrays

    def copy_outputs(self, turn: int, rows: int) -> None:
        """Device to host."""
        if rows:
            host = self._outputs.hosts[turn][: rows * self._row_bytes]
            self._device.copy_out(host, self._outputs.address)

    def _buffer(self, num_bytes: int) -> DoubleBuffer:
        return DoubleBuffer(self._device, self._device.allocate(num_bytes), num_bytes)


def _output_layout(rows: int) -> Iterator[tuple[str, type[Any], int, int]]:
    """Name, type, values a row, and bytes from the start: arrays of `rows` rows behind each other."""
    offset = 0
    for name, dtype, count in OUTPUTS:
        yield name, dtype, count, offset
        offset += 4 * count * rows


class RecordedStep:
    """What model.py's functions are given: each `run` adds a kernel's launches for one size of a step."""

    def __init__(
        self,
        decodes: bool,
        sizes: dict[str, int],
        places: dict[str, int],
        arenas: Arenas,
        weights: list[int],
        table: Any,
        device: Any,
    ) -> None:
        self.decodes = decodes  # one token of each sequence
        self.launches: list[Any] = []
        self._sizes, self._places = sizes, places
        self._arenas, self._weights = arenas, weights
        self._table, self._device = table, device

    def token(self, place: int) -> int:
        """The buffer `place` bytes a token into the arena."""
        return self._arenas.token_base + place * self._arenas.max_tokens

    def row(self, place: int) -> int:
        """The same of rows of logits."""
        return self._arenas.row_base + place * self._arenas.max_rows

    def weight(self, index: int) -> int:
        """A weight."""
        return self._weights[index]

    def k_cache(self, layer: int) -> int:
        """The keys of a layer."""
        return self._arenas.caches[layer][0]

    def v_cache(self, layer: int) -> int:
        """The values of a layer."""
        return self._arenas.caches[layer][1]

    def state(self, number: int) -> int:
        """What sequences carry from token to token, slot by slot."""
        return self._arenas.states[number]

    def run(self, kernel: str, **given: int) -> None:
        """One kernel of kernels.json; what is not given are inputs of the step."""
        places = self._places | given
        for launch in self._table.launches(kernel, self._sizes):
            values = [
                places[value[0]] + value[1] if isinstance(value, list) else value for value in launch["args"]
            ]
            self.launches.append(self._device.prepare(launch["binary"], launch["grid"], values))
