"""`coded_bf16`: bf16 in 12 bits without loss, as kernels/cpu/coded.h reads it.

The upper byte of a bf16, its sign and most of its exponent, takes few values among neighbouring weights: a
code of 4 bits stands for it. Weights with another upper byte, a few in a million, are listed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

SPAN = 256  # columns of 16 rows that share a table
STEP = 8  # columns of 16 rows that are read together
ROWS = 16
MAX_EXCEPTIONS = 11  # of a span
NONE = 0xFFFF  # ends a list
HEADER = np.dtype(
    [
        ("upper", np.uint8, 16),
        ("steps", np.uint32),
        ("exceptions", [("at", np.uint16), ("bits", np.uint16)], MAX_EXCEPTIONS),
    ]
)
STEP_BYTES = ROWS * STEP * 12 // 8
CHUNK = 64  # panels at a time: what a span of them takes stays in the second-level cache

UInt8Array = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.uint16]


def panel_bytes(columns: int) -> int:
    """Bytes of 16 rows."""
    return -(-columns // SPAN) * HEADER.itemsize + -(-columns // STEP) * STEP_BYTES


def is_codable(panels: Bits) -> bool:
    """Whether the exceptions of each span of [panels, 16, columns] find room."""
    return all(
        (counts.sum(1) - np.partition(counts, 240, axis=1)[:, 240:].sum(1) <= MAX_EXCEPTIONS).all()
        for chunk in range(0, len(panels), CHUNK)
        for k, _, _ in _spans(panels.shape[2])
        for counts in [_count(panels[chunk : chunk + CHUNK, :, k : k + SPAN] >> 8)]
    )


def pack(panels: Bits) -> UInt8Array:
    """Bytes [panels, panel_bytes] of bf16 bits [panels, 16, columns]. Raises ValueError."""
    columns = panels.shape[2]
    out = np.empty((len(panels), panel_bytes(columns)), np.uint8)
    for chunk in range(0, len(panels), CHUNK):
        rows = slice(chunk, chunk + CHUNK)
        for k, begin, end in _spans(columns):
            span = panels[rows, :, k : k + SPAN]
            span = np.pad(span, ((0, 0), (0, 0), (0, -span.shape[2] % STEP)))
            _pack_span(
                span, out[rows, begin : begin + HEADER.itemsize], out[rows, begin + HEADER.itemsize : end]
            )
    return out


def unpack(packed: UInt8Array, columns: int) -> Bits:
    """The inverse of `pack`."""
    spans = [_unpack_span(packed[:, begin:end]) for _, begin, end in _spans(columns)]
    return np.concatenate(spans, axis=2)[:, :, :columns]


def _spans(columns: int) -> Iterator[tuple[int, int, int]]:
    """The first column of each span, its first byte in a panel, and the byte past it."""
    for k in range(0, columns, SPAN):
        yield k, panel_bytes(k), panel_bytes(min(k + SPAN, columns))


def _pack_span(span: Bits, header_out: UInt8Array, steps_out: UInt8Array) -> None:
    """Of [panels, 16, columns], whole steps."""
    pairs = span.reshape(len(span), ROWS, -1, 2).transpose(0, 2, 1, 3).reshape(len(span), -1)  # BF16's order
    upper = (pairs >> 8).astype(np.uint8)
    header = np.zeros(len(span), HEADER)
    # Of equally common ones the larger: the same weights give the same bytes.
    ranks = _count(upper) * 256 + np.arange(256)
    header["upper"] = np.sort(np.partition(ranks, 240, axis=1)[:, 240:], axis=1) & 255
    code_of = np.full((len(span), 256), 16, np.uint8)
    np.put_along_axis(code_of, header["upper"].astype(np.intp), np.arange(16, dtype=np.uint8)[None], axis=1)
    codes = code_of.reshape(-1)[upper + _starts(len(span))]
    if (codes == 16).any():
        _list_exceptions(header, pairs, *np.nonzero(codes == 16))
        codes &= 15
    halves = _read_order(codes)
    steps = steps_out.reshape(len(span), -1, 3, 64)
    steps[:, :, 0] = halves[:, :, 0] | halves[:, :, 1] << 4
    steps[:, :, 1:] = _read_order(pairs.astype(np.uint8))
    header_out[:] = header.view(np.uint8).reshape(len(span), -1)


def _list_exceptions(
    header: npt.NDArray[np.void], pairs: Bits, panel: npt.NDArray[np.intp], at: npt.NDArray[np.intp]
) -> None:
    place = np.arange(len(panel)) - np.searchsorted(panel, panel)
    if place.max() >= MAX_EXCEPTIONS:
        raise ValueError(f"{place.max() + 1} of 16 × {SPAN} weights have an upper byte without a code")
    header["exceptions"]["at"] = NONE
    header["exceptions"]["at"][panel, place] = at
    header["exceptions"]["bits"][panel, place] = pairs[panel, at]
    np.bitwise_or.at(header["steps"], panel, np.uint32(1) << (at // (ROWS * STEP)).astype(np.uint32))


def _unpack_span(packed: UInt8Array) -> Bits:
    """[panels, 16, columns], whole steps."""
    header = np.ascontiguousarray(packed[:, : HEADER.itemsize]).view(HEADER)[:, 0]
    steps = packed[:, HEADER.itemsize :].reshape(len(packed), -1, 3, 64)
    codes = np.stack([steps[:, :, 0] & 15, steps[:, :, 0] >> 4], axis=2).reshape(len(packed), -1)
    upper = np.take_along_axis(header["upper"], codes.astype(np.intp), axis=1).astype(np.uint16)
    halves = upper << 8 | steps[:, :, 1:].reshape(len(packed), -1)
    vectors = halves.reshape(len(packed), -1, 4, 2, 8).swapaxes(2, 3)  # `_read_order`, back
    pairs = np.ascontiguousarray(vectors).reshape(len(packed), -1)
    exceptions = header["exceptions"]
    listed = (exceptions["at"] != NONE) & (header["steps"] != 0)[:, None]
    panel, _ = np.nonzero(listed)
    pairs[panel, exceptions["at"][listed]] = exceptions["bits"][listed]
    return pairs.reshape(len(packed), -1, ROWS, 2).transpose(0, 2, 1, 3).reshape(len(packed), ROWS, -1)


def _count(upper: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """How often each upper byte stands in each panel: [panels, 256] of [panels, …]."""
    flat = upper.reshape(len(upper), -1) + _starts(len(upper))
    return np.bincount(flat.ravel(), minlength=len(upper) * 256).reshape(-1, 256)


def _starts(num_panels: int) -> npt.NDArray[np.intp]:
    """Where the 256 entries of each panel start, one after the other."""
    return (np.arange(num_panels) * 256)[:, None]


def _read_order(values: UInt8Array) -> UInt8Array:
    """[panels, steps, 2, 64] of BF16's order, as VPUNPCK reads it: 8 of one vector, 8 of the next, …"""
    vectors = values.reshape(len(values), -1, 2, 4, 8).swapaxes(2, 3)
    return vectors.reshape(len(values), -1, 2, 64)
