"""The block types of GGUF as integers and scales: what a block of each means, exactly.

Types with one level of scales (Q4_0 … Q8_0) have float16 scales and keep them. The K types have scales of 4,
6 or 8 bits under a float16 one, and keep both: their product would need 19 bits. Codes of 2, 3 and 4 bits
become ours of 4, codes of 5, 6 and 8 bits ours of 8.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

Bytes = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.float16] | npt.NDArray[np.float32] | npt.NDArray[np.int8]
# e2m1, doubled: 4-bit floats as integers.
E2M1 = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), np.int8)


class Decoded(NamedTuple):
    """n blocks. weight = scale · code (· (code − 8) for 4 bits without minimums), plus the minimum."""

    codes: npt.NDArray[np.int8] | npt.NDArray[np.uint8]  # [n, weights of a block], in order
    scales: Scales  # [n, groups of a block]
    minimums: Scales | None = None
    units: npt.NDArray[np.float16] | None = None  # [n, 1 or 2]: of int8 scales, and of minimums


class Decoder(NamedTuple):
    """How blocks of a type are read."""

    block_bytes: int
    group_size: int
    bits: int  # of our codes
    decode: Callable[[Bytes], Decoded]


def _fields(blocks: Bytes, *sizes: int) -> list[Bytes]:
    """The bytes of a block cut into fields, the last of which takes the rest."""
    return np.split(blocks, np.cumsum(sizes), axis=1)


def _half(pair: Bytes) -> npt.NDArray[np.float16]:
    """[n, 2] bytes as [n, 1] float16."""
    return np.ascontiguousarray(pair).view(np.float16)


def _bits(packed: Bytes, width: int, run: int) -> Bytes:
    """Numbers of `width` bits: each run of bytes holds a run of lowest bits, then a run of the next, …"""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), -1, 1, run) >> shifts
    return (runs & np.uint8((1 << width) - 1)).reshape(len(packed), -1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """[n, 4] bytes as [n, 32]: bit i of the word is 16 of element i."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> Decoded:
    scale, packed = _fields(blocks, 2)
    return Decoded(_bits(packed, 4, 16), _half(scale))


def _q4_1(blocks: Bytes) -> Decoded:
    scale, minimum, packed = _fields(blocks, 2, 2)
    return Decoded(_bits(packed, 4, 16), _half(scale), _half(minimum))


def _q5_0(blocks: Bytes) -> Decoded:
    scale, high, packed = _fields(blocks, 2, 4)
    codes = (_bits(packed, 4, 16) | _fifth_bits(high)).view(np.int8) - np.int8(16)
    return Decoded(codes, _half(scale))


def _q5_1(blocks: Bytes) -> Decoded:
    scale, minimum, high, packed = _fields(blocks, 2, 2, 4)
    codes = (_bits(packed, 4, 16) | _fifth_bits(high)).view(np.int8)
    return Decoded(codes, _half(scale), _half(minimum))


def _q8_0(blocks: Bytes) -> Decoded:
    scale, codes = _fields(blocks, 2)
    return Decoded(codes.view(np.int8), _half(scale))


def _mxfp4(blocks: Bytes) -> Decoded:
    exponent, packed = _fields(blocks, 1)
    return Decoded(E2M1[_bits(packed, 4, 16)], np.ldexp(np.float32(1), exponent.astype(np.int32) - 128))


def _q2_k(blocks: Bytes) -> Decoded:
    levels, packed, scale, minimum = _fields(blocks, 16, 64, 2)
    scales, minimums = (levels & np.uint8(15)).view(np.int8), (levels >> np.uint8(4)).view(np.int8)
    return Decoded(_bits(packed, 2, 32), scales, minimums, _units(scale, minimum))


def _q3_k(blocks: Bytes) -> Decoded:
    mask, packed, levels, scale = _fields(blocks, 32, 64, 12)
    low, high = _fields(levels, 8)
    six = (_bits(low, 4, 8) | _bits(high, 2, 4) << np.uint8(4)).view(np.int8) - np.int8(32)
    # A third bit that is set means no − 4; our codes of 4 bits stand for code − 8.
    codes = _bits(packed, 2, 32) + np.uint8(4) + (_bits(mask, 1, 32) << np.uint8(2))
    return Decoded(codes, six, units=_half(scale))


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The 8 scales and 8 minimums of 6 bits in the 12 bytes of Q4_K and Q5_K."""
    first, second, third = _fields(packed, 4, 4)
    two = np.uint8(2)
    scales = [first & np.uint8(63), third & np.uint8(15) | first >> two & np.uint8(48)]
    minimums = [second & np.uint8(63), third >> np.uint8(4) | second >> two & np.uint8(48)]
    return np.concatenate(scales, axis=1), np.concatenate(minimums, axis=1)


def _units(scale: Bytes, minimum: Bytes) -> npt.NDArray[np.float16]:
    """Of the scales and of the minimums, which these types subtract."""
    return np.concatenate([_half(scale), -_half(minimum)], axis=1)


def _q4_k(blocks: Bytes) -> Decoded:
    scale, minimum, levels, packed = _fields(blocks, 2, 2, 12)
    scales, minimums = _six_bits(levels)
    return Decoded(_bits(packed, 4, 32), scales.view(np.int8), minimums.view(np.int8), _units(scale, minimum))


def _q5_k(blocks: Bytes) -> Decoded:
    scale, minimum, levels, high, packed = _fields(blocks, 2, 2, 12, 32)
    codes = (_bits(packed, 4, 32) | _bits(high, 1, 32) << np.uint8(4)).view(np.int8)
    scales, minimums = _six_bits(levels)
    return Decoded(codes, scales.view(np.int8), minimums.view(np.int8), _units(scale, minimum))


def _q6_k(blocks: Bytes) -> Decoded:
    low, high, levels, scale = _fields(blocks, 128, 64, 16)
    codes = (_bits(low, 4, 64) | _bits(high, 2, 32) << np.uint8(4)).view(np.int8) - np.int8(32)
    return Decoded(codes, levels.view(np.int8), units=_half(scale))


DECODERS = {
    Type.Q4_0: Decoder(18, 32, 4, _q4_0),
    Type.Q4_1: Decoder(20, 32, 4, _q4_1),
    Type.Q5_0: Decoder(22, 32, 8, _q5_0),
    Type.Q5_1: Decoder(24, 32, 8, _q5_1),
    Type.Q8_0: Decoder(34, 32, 8, _q8_0),
    Type.MXFP4: Decoder(17, 32, 8, _mxfp4),
    Type.Q2_K: Decoder(84, 16, 4, _q2_k),
    Type.Q3_K: Decoder(110, 16, 4, _q3_k),
    Type.Q4_K: Decoder(144, 32, 4, _q4_k),
    Type.Q5_K: Decoder(176, 32, 8, _q5_k),
    Type.Q6_K: Decoder(210, 16, 8, _q6_k),
}
