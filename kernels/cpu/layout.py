"""The packed weight layouts that kernels/cpu/formats.h reads, written and read back with numpy.

A matrix W [rows, columns] (rows = output features) is cut into panels of 16 rows; the last panel is filled
with zeros. A format's name is `f32`, `bf16`, `coded_bf16` (its weights in 12 bits: `coded.py`), `int8_g0` (a
float32 scale per row), or `int{4,8}_g{16,32,64,128}`, with `_min` if groups have a minimum. Scales and
minimums are float16; `_f32`: float32; `_i8`: int8, in units of a float16 for each 256 weights of a row, as
the K types of GGUF have them.
Every packer returns uint8 [packed_bytes(format, rows, columns)].
"""

import re
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pagedc.kernels.cpu import coded

PANEL_ROWS = 16

GROUP_SIZES = (16, 32, 64, 128)
SPAN = 256  # weights of a row that share the units of 8-bit scales

UInt8Array = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.float16] | npt.NDArray[np.float32] | npt.NDArray[np.int8]
Units = npt.NDArray[np.float16]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Format:
    """`bits` of a weight (32, 16 and 12 are floats); `group_size` weights share a scale (0 = a whole row)."""

    bits: int
    group_size: int = 0
    has_minimum: bool = False
    scale_bits: int = 16

    @property
    def is_integer(self) -> bool:
        return self.bits <= 8

    @property
    def cpp_type(self) -> str:
        """The type that stands for this format in an emitted program."""
        match self.bits:
            case 32:
                return "F32"
            case 16:
                return "BF16"
            case 12:
                return "CodedBF16"
            case _:
                minimum = f", {str(self.has_minimum).lower()}" if self.bits == 4 or self.group_size else ""
                scale = {8: ", int8_t", 16: "", 32: ", float"}[self.scale_bits]
                return f"Int{self.bits}<{self.group_size}{minimum}{scale}>"

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of one group of 16 rows."""
        return self.group_size * PANEL_ROWS * self.bits // 8

    @property
    def span(self) -> int:
        """Columns that a matrix has a multiple of, and that lie in one piece: a group, or those of a unit."""
        return SPAN if self.scale_bits == 8 else self.group_size

    @property
    def span_bytes(self) -> int:
        """Bytes of 16 rows of a span: codes, scales, minimums, units."""
        num_groups, fields = self.span // self.group_size, PANEL_ROWS * (1 + self.has_minimum)
        units = 2 * fields if self.scale_bits == 8 else 0
        return num_groups * (self.code_bytes + self.scale_bits // 8 * fields) + units


def parse_format(name: str) -> Format:
    """The format called `name`; ValueError if there is none."""
    if name == "f32":
        return Format(32)
    if name == "bf16":
        return Format(16)
    if name == "coded_bf16":
        return Format(12)
    if name == "int8_g0":
        return Format(8)
    if match := re.fullmatch(r"int(4|8)_g(16|32|64|128)(_min)?(_f32|_i8)?", name):
        scale_bits = {None: 16, "_f32": 32, "_i8": 8}[match[4]]
        return Format(int(match[1]), int(match[2]), match[3] is not None, scale_bits)
    raise ValueError(f"{name!r} is not a weight format")


def packed_bytes(format_name: str, rows: int, columns: int) -> int:
    """Bytes of a packed [rows, columns] matrix. ValueError if columns is not whole groups."""
    weight_format = parse_format(format_name)
    _check_shape(weight_format, rows, columns)
    num_panels = -(-rows // PANEL_ROWS)
    if weight_format.bits == 32:
        return num_panels * columns * PANEL_ROWS * 4
    if weight_format.bits == 16:
        return num_panels * _even(columns) * PANEL_ROWS * 2
    if weight_format.bits == 12:
        return num_panels * coded.panel_bytes(columns)
    if weight_format.group_size == 0:
        return num_panels * PANEL_ROWS * (_even(columns) + 4)
    return num_panels * columns // weight_format.span * weight_format.span_bytes


def pack_float32(weights: npt.NDArray[np.float32]) -> UInt8Array:
    """`f32` of weights [rows, columns]: per panel [columns][16]."""
    _check_array("weights", weights, np.float32, weights.shape)
    return _bytes(_panels(weights).transpose(0, 2, 1))


def pack_bfloat16(bits: npt.NDArray[np.uint16]) -> UInt8Array:
    """`bf16` of [rows, columns] upper halves of float32: per panel [columns / 2][16][2]."""
    _check_array("bits", bits, np.uint16, bits.shape)
    panels = _panels(_pad_columns(bits))
    return _bytes(panels.reshape(len(panels), PANEL_ROWS, -1, 2).transpose(0, 2, 1, 3))


def is_codable(bits: npt.NDArray[np.uint16]) -> bool:
    """Whether `coded_bf16` holds [rows, columns] upper halves of float32, in fewer bytes than `bf16`."""
    fewer = packed_bytes("coded_bf16", *bits.shape) < packed_bytes("bf16", *bits.shape)
    return fewer and coded.is_codable(_panels(bits))


def pack_coded_bfloat16(bits: npt.NDArray[np.uint16]) -> UInt8Array:
    """`coded_bf16` of [rows, columns] upper halves of float32; ValueError where they are not codable."""
    _check_array("bits", bits, np.uint16, bits.shape)
    return coded.pack(_panels(bits)).reshape(-1)


def pack_int8_rows(codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> UInt8Array:
    """`int8_g0`: weight = scale · code; codes [rows, columns], scales [rows].

    Per panel: [columns, made even][16] codes, then scale[16].
    """
    _check_array("codes", codes, np.int8, codes.shape)
    _check_array("scales", scales, np.float32, codes.shape[:1])
    code_panels = _panels(_pad_columns(codes)).transpose(0, 2, 1)
    return _bytes(_concatenate(code_panels, _panels(scales[:, None]), lead=1))


def pack_int8(
    codes: npt.NDArray[np.int8], scales: Scales, minimums: Scales | None = None, units: Units | None = None
) -> UInt8Array:
    """weight = scale · code, plus the minimum if there is one: `int8_g{G}`.

    codes [rows, columns]; scales and minimums [rows, columns / G] of one type: float16, float32 (`_f32`), or
    int8 (`_i8`) with units [rows, columns / 256 (· 2 with minimums: of the scales, then of the minimums)].
    Per panel and group: [G][16] codes, then scale[16], minimum[16]. `_i8`: per panel and 256 columns the
    codes of all groups, then their scale[16] each, their minimum[16] each, the units [1 or 2][16].
    """
    _check_array("codes", codes, np.int8, codes.shape)
    group_size = _group_size(codes, scales)
    groups = _panels(codes).reshape(-1, PANEL_ROWS, scales.shape[1], group_size).transpose(0, 2, 3, 1)
    return _pack_groups(codes, groups, scales, minimums, units)


def pack_int4(
    codes: npt.NDArray[np.uint8], scales: Scales, minimums: Scales | None = None, units: Units | None = None
) -> UInt8Array:
    """weight = scale · (code − 8), or scale · code + minimum: `int4_g{G}` or `int4_g{G}_min`.

    codes [rows, columns] in 0 … 15; the rest as in `pack_int8`. The codes of a group: G / 8 vectors of 32
    words of 16 bits, where nibble j of word 2 · row + k % 2 is the code of k = 2 j + k % 2.
    """
    _check_array("codes", codes, np.uint8, codes.shape)
    group_size = _group_size(codes, scales)
    if codes.size and int(codes.max()) > 15:
        raise ValueError(f"int4 codes are 0 to 15, not {int(codes.max())}")
    # [panel, row, vector, nibble, parity]
    nibbles = _panels(codes).reshape(-1, PANEL_ROWS, codes.shape[1] // 8, 4, 2)
    words = np.zeros((*nibbles.shape[:3], 2), np.uint16)
    for j in range(4):
        words |= nibbles[:, :, :, j].astype(np.uint16) << (4 * j)
    groups = words.transpose(0, 2, 1, 3).reshape(len(words), scales.shape[1], group_size // 8, PANEL_ROWS, 2)
    return _pack_groups(codes, groups, scales, minimums, units)


def _pack_groups(
    codes: npt.NDArray[np.generic],
    groups: npt.NDArray[np.generic],
    scales: Scales,
    minimums: Scales | None,
    units: Units | None,
) -> UInt8Array:
    """Code panels [panels, groups, …] with what the groups are scaled by; `codes` says the matrix' shape."""
    parts, spans = [groups, *_scale_panels(codes, scales, minimums)], scales.shape[1]
    if scales.dtype == np.int8:
        spans = codes.shape[1] // SPAN
        if units is None or codes.shape[1] % SPAN:
            raise ValueError(f"int8 scales of {codes.shape[1]} columns: they need units of each {SPAN}")
        _check_array("units", units, np.float16, (len(codes), spans * (1 if minimums is None else 2)))
        parts.append(_panels(units).transpose(0, 2, 1))
    return _bytes(_concatenate(*(part.reshape(len(part), spans, -1) for part in parts), lead=2))


def _group_size(codes: npt.NDArray[np.generic], scales: Scales) -> int:
    """Weights that share a scale; ValueError where they are no group of ours."""
    rows, columns = codes.shape
    num_groups = scales.shape[-1]
    group_size = columns // num_groups if num_groups else 0
    if group_size not in GROUP_SIZES or columns % group_size:
        raise ValueError(f"groups hold 16, 32, 64 or 128 weights, not {columns} / {num_groups}")
    _check_shape(Format(8, group_size), rows, columns)
    return group_size


def _scale_panels(
    codes: npt.NDArray[np.generic], scales: Scales, minimums: Scales | None
) -> list[npt.NDArray[np.generic]]:
    """[panels, groups, 16] of the scales, and of the minimums where there are any."""
    dtype = scales.dtype if scales.dtype in (np.float32, np.int8) else np.float16
    _check_array("scales", scales, dtype, (len(codes), scales.shape[-1]))
    parts: list[npt.NDArray[np.generic]] = [_panels(scales).transpose(0, 2, 1)]
    if minimums is not None:
        _check_array("minimums", minimums, dtype, scales.shape)
        parts.append(_panels(minimums).transpose(0, 2, 1))
    return parts


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a packed matrix holds: float32, bf16 bits or codes [rows, columns]; scales, minimums as packed."""

    values: npt.NDArray[np.float32] | npt.NDArray[np.uint16] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]
    scales: Scales | None = None
    minimums: Scales | None = None
    units: Units | None = None


def unpack(format_name: str, packed: UInt8Array, rows: int, columns: int) -> Unpacked:
    """The inverse of the packers. ValueError if `packed` is not packed_bytes(…) long."""
    weight_format = parse_format(format_name)
    expected = packed_bytes(format_name, rows, columns)
    if packed.shape != (expected,) or packed.dtype != np.uint8:
        raise ValueError(f"packed is {packed.dtype} {packed.shape}, not uint8 ({expected},)")
    num_panels = -(-rows // PANEL_ROWS)
    if weight_format.bits == 32:
        return Unpacked(
            _rows(packed.view(np.float32).reshape(num_panels, columns, PANEL_ROWS).transpose(0, 2, 1), rows)
        )
    if weight_format.bits == 16:
        pairs = packed.view(np.uint16).reshape(num_panels, -1, PANEL_ROWS, 2).transpose(0, 2, 1, 3)
        return Unpacked(_rows(pairs.reshape(num_panels, PANEL_ROWS, -1), rows)[:, :columns])
    if weight_format.bits == 12:
        return Unpacked(_rows(coded.unpack(packed.reshape(num_panels, -1), columns), rows))
    if weight_format.group_size == 0:
        panels = packed.reshape(num_panels, -1)
        codes = (
            panels[:, : -4 * PANEL_ROWS].view(np.int8).reshape(num_panels, -1, PANEL_ROWS).transpose(0, 2, 1)
        )
        row_scales = np.ascontiguousarray(panels[:, -4 * PANEL_ROWS :]).view(np.float32).reshape(-1)[:rows]
        return Unpacked(_rows(codes, rows)[:, :columns], row_scales)
    spans = packed.reshape(num_panels, -1, weight_format.span_bytes)
    num_groups = weight_format.span // weight_format.group_size
    dtype = {8: np.int8, 16: np.float16, 32: np.float32}[weight_format.scale_bits]
    start, size = (
        num_groups * weight_format.code_bytes,
        num_groups * PANEL_ROWS * weight_format.scale_bits // 8,
    )
    end = start + size * (1 + weight_format.has_minimum)

    def scaling(begin: int, end: int, dtype: npt.DTypeLike) -> Any:
        part = np.ascontiguousarray(spans[:, :, begin:end]).view(dtype)
        return _rows(part.reshape(num_panels, -1, PANEL_ROWS).transpose(0, 2, 1), rows)

    scales = scaling(start, start + size, dtype)
    minimums = scaling(start + size, end, dtype) if weight_format.has_minimum else None
    units = scaling(end, weight_format.span_bytes, np.float16) if weight_format.scale_bits == 8 else None
    code_part = np.ascontiguousarray(spans[:, :, :start])
    if weight_format.bits == 8:
        int8_codes = code_part.view(np.int8).reshape(num_panels, columns, PANEL_ROWS).transpose(0, 2, 1)
        return Unpacked(_rows(int8_codes, rows), scales, minimums, units)
    words = code_part.view(np.uint16).reshape(num_panels, columns // 8, PANEL_ROWS, 1, 2)
    shifts = np.arange(0, 16, 4, dtype=np.uint16)[:, None]
    nibbles = ((words >> shifts) & 15).astype(np.uint8).transpose(0, 2, 1, 3, 4)
    return Unpacked(_rows(nibbles.reshape(num_panels, PANEL_ROWS, columns), rows), scales, minimums, units)


def dequantise(format_name: str, unpacked: Unpacked) -> npt.NDArray[np.float32]:
    """The weights [rows, columns] that the kernels compute with, exact in float32."""
    weight_format = parse_format(format_name)
    if weight_format.bits == 32:
        return unpacked.values.astype(np.float32)
    if weight_format.bits in (16, 12):
        return (unpacked.values.astype(np.uint32) << 16).view(np.float32)
    values = unpacked.values.astype(np.float32)
    assert unpacked.scales is not None
    if weight_format.group_size == 0:
        return values * unpacked.scales.astype(np.float32)[:, None]
    if weight_format.bits == 4 and not weight_format.has_minimum:
        values -= 8
    scales, minimums = unpacked.scales.astype(np.float32), unpacked.minimums
    if minimums is not None:
        minimums = minimums.astype(np.float32)
    if unpacked.units is not None:
        units = unpacked.units.astype(np.float32).reshape(len(values), values.shape[1] // SPAN, -1)
        num_groups = SPAN // weight_format.group_size
        scales = scales * np.repeat(units[:, :, 0], num_groups, axis=1)
        if minimums is not None:
            minimums = minimums * np.repeat(units[:, :, 1], num_groups, axis=1)
    groups = values.reshape(len(values), -1, weight_format.group_size)
    groups *= scales[:, :, None]
    if minimums is not None:
        groups += minimums[:, :, None]
    return groups.reshape(values.shape)


def _even(columns: int) -> int:
    return columns + columns % 2


def _check_shape(weight_format: Format, rows: int, columns: int) -> None:
    if rows <= 0 or columns <= 0:
        raise ValueError(f"a matrix of {rows} × {columns} has no weights")
    if weight_format.group_size and columns % weight_format.span:
        raise ValueError(f"{columns} columns are not whole groups of {weight_format.span}")


def _check_array(
    name: str, array: npt.NDArray[np.generic], dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
    if array.ndim == 2 and 0 in array.shape:
        raise ValueError(f"{name} is empty: {array.shape}")


def _pad_columns(array: npt.NDArray[T]) -> npt.NDArray[T]:
    return np.pad(array, ((0, 0), (0, 1))) if array.shape[1] % 2 else array


def _panels(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """[rows, columns] as [panels, 16, columns], filled with zeros."""
    rows, columns = array.shape
    if padding := -rows % PANEL_ROWS:
        array = np.pad(array, ((0, padding), (0, 0)))
    return array.reshape(-1, PANEL_ROWS, columns)


def _rows(panels: npt.NDArray[T], rows: int) -> npt.NDArray[T]:
    return np.ascontiguousarray(panels.reshape(-1, panels.shape[2])[:rows])


def _concatenate(*parts: npt.NDArray[np.generic], lead: int) -> UInt8Array:
    """The parts' bytes side by side behind their first `lead` axes, which they share."""
    flat = [np.ascontiguousarray(part).reshape(*part.shape[:lead], -1).view(np.uint8) for part in parts]
    return np.concatenate(flat, axis=lead)


def _bytes(array: npt.NDArray[np.generic]) -> UInt8Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
