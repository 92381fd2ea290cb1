"""Structs of cuda.h, and a kernel's arguments as the driver takes them."""

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

HOST, DEVICE = 1, 2  # of CUmemorytype
SCALARS: dict[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


class LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute: an id and a union of 64 bytes, aligned to 8."""

    _fields_: ClassVar = [
        ("id", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("value", ctypes.c_int32 * 16),
    ]

    def __init__(self, id: int) -> None:
        super().__init__(id)


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_: ClassVar = [
        *((f"grid_{axis}", ctypes.c_uint) for axis in "xyz"),
        *((f"block_{axis}", ctypes.c_uint) for axis in "xyz"),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attrs", ctypes.POINTER(LaunchAttribute)),
        ("num_attrs", ctypes.c_uint),
    ]


class Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D."""

    _fields_: ClassVar = [
        ("src_x", ctypes.c_size_t),
        ("src_y", ctypes.c_size_t),
        ("src_type", ctypes.c_uint),
        ("src_host", ctypes.c_void_p),
        ("src_device", ctypes.c_uint64),
        ("src_array", ctypes.c_void_p),
        ("src_pitch", ctypes.c_size_t),
        ("dst_x", ctypes.c_size_t),
        ("dst_y", ctypes.c_size_t),
        ("dst_type", ctypes.c_uint),
        ("dst_host", ctypes.c_void_p),
        ("dst_device", ctypes.c_uint64),
        ("dst_array", ctypes.c_void_p),
        ("dst_pitch", ctypes.c_size_t),
        ("width", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
    ]

    @classmethod
    def host_to_device(cls, source: int, source_pitch: int, target: int, target_pitch: int) -> "Copy2D":
        """Rows of the host to rows of the device; width (bytes) and height stay to be said."""
        return cls(
            src_type=HOST,
            src_host=source,
            src_pitch=source_pitch,
            dst_type=DEVICE,
            dst_device=target,
            dst_pitch=target_pitch,
        )


class Arguments:
    """Values, and the array of pointers to them that a launch is given."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values
        addresses = [ctypes.addressof(value) for value in values]
        self.pointers = (ctypes.c_void_p * max(len(values), 1))(*addresses)


def pack_arguments(types: Sequence[str], values: Sequence[Any], hidden: Sequence[int]) -> Arguments:
    """Values of Triton's types (`*bf16`, `i32`, …), and the pointers that its kernels have behind them."""
    packed = [
        (ctypes.c_uint64 if kind.startswith("*") else SCALARS[kind])(value)
        for kind, value in zip(types, values, strict=True)
    ]
    return Arguments([*packed, *(ctypes.c_uint64(address) for address in hidden)])


class PreparedLaunch:
    """A launch whose structs stay where they are."""

    __slots__ = ("arguments", "attribute", "config", "config_pointer", "function")

    def __init__(
        self,
        config: LaunchConfig,
        function: ctypes.c_void_p,
        arguments: Arguments,
        attribute: LaunchAttribute | None,
    ) -> None:
        self.config, self.attribute = config, attribute
        self.config_pointer = ctypes.byref(config)
        self.function = function
        self.arguments = arguments
