"""Random packed matrices for tests: what the kernels read, and the float32 weights it stands for."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pagedc.kernels.cpu import layout
from pagedc.kernels.reference.linear import to_bfloat16

FORMATS = (
    "f32",
    "bf16",
    "coded_bf16",
    "int8_g0",
    *(
        f"int{bits}_g{group_size}{minimum}{scale}"
        for bits in (8, 4)
        for group_size in layout.GROUP_SIZES
        for minimum in ("", "_min")
        for scale in ("", "_f32", "_i8")
    ),
)


class Matrix(NamedTuple):
    packed: npt.NDArray[np.uint8]
    weights: npt.NDArray[np.float32]


def random_unpacked(format_name: str, rows: int, columns: int, rng: np.random.Generator) -> layout.Unpacked:
    """Random codes over their whole range, scales and minimums of either sign."""
    weight_format = layout.parse_format(format_name)
    if weight_format.bits == 32:
        return layout.Unpacked(rng.standard_normal((rows, columns), dtype=np.float32))
    if weight_format.bits == 12:  # a few weights that no code stands for
        weights = rng.standard_normal((rows, columns), dtype=np.float32)
        weights.flat[rng.integers(0, weights.size, weights.size // 2000)] *= 64
        return layout.Unpacked(to_bfloat16(weights))
    if weight_format.bits == 16:
        return layout.Unpacked(to_bfloat16(rng.standard_normal((rows, columns), dtype=np.float32)))
    if weight_format.group_size == 0:
        codes = rng.integers(-128, 128, (rows, columns), np.int8)
        return layout.Unpacked(codes, rng.standard_normal(rows, dtype=np.float32) / np.float32(100))
    groups = (rows, columns // weight_format.group_size)
    scales: layout.Scales = (rng.standard_normal(groups) / (100 if weight_format.bits == 8 else 10)).astype(
        np.float16
    )
    minimums: layout.Scales | None = None
    if weight_format.has_minimum:
        minimums = rng.standard_normal(groups).astype(np.float16)
    if weight_format.scale_bits == 32:  # as formats of two levels have them: 11 bits × 6 bits
        scales, minimums = (
            None if of is None else of.astype(np.float32) * rng.integers(1, 64, groups).astype(np.float32)
            for of in (scales, minimums)
        )
    units: layout.Units | None = None
    if weight_format.scale_bits == 8:
        fields = 1 if minimums is None else 2
        units = (rng.standard_normal((rows, columns // layout.SPAN * fields)) / 1000).astype(np.float16)
        scales, minimums = (
            None if of is None else rng.integers(-128, 128, groups, np.int8) for of in (scales, minimums)
        )
    low, high, dtype = (-128, 128, np.int8) if weight_format.bits == 8 else (0, 16, np.uint8)
    return layout.Unpacked(rng.integers(low, high, (rows, columns), dtype), scales, minimums, units)


def pack(format_name: str, unpacked: layout.Unpacked) -> npt.NDArray[np.uint8]:
    """The packer of the format, applied."""
    values = unpacked.values
    if values.dtype == np.float32:
        return layout.pack_float32(values.astype(np.float32))
    if values.dtype == np.uint16:
        coded = format_name == "coded_bf16"
        return (layout.pack_coded_bfloat16 if coded else layout.pack_bfloat16)(values.astype(np.uint16))
    assert unpacked.scales is not None
    if unpacked.scales.ndim == 1:
        return layout.pack_int8_rows(values.astype(np.int8), unpacked.scales.astype(np.float32))
    if values.dtype == np.int8:
        return layout.pack_int8(values.astype(np.int8), unpacked.scales, unpacked.minimums, unpacked.units)
    return layout.pack_int4(values.astype(np.uint8), unpacked.scales, unpacked.minimums, unpacked.units)


def random_matrix(format_name: str, rows: int, columns: int, seed: int = 0) -> Matrix:
    """A packed matrix at a 64-byte aligned address, and its weights [rows, columns]."""
    unpacked = random_unpacked(format_name, rows, columns, np.random.default_rng(seed))
    return Matrix(aligned(pack(format_name, unpacked)), layout.dequantise(format_name, unpacked))


def aligned(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A copy that starts on a 64-byte boundary, as mapped weights do."""
    room = np.empty(array.size + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + array.size] = array
    return room[start : start + array.size]
