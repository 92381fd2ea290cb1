"""No GPU: kernels run under Triton's interpreter, on this machine's memory. Slow; for tests."""

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedc.templates.cuda.launcher.errors import DeviceError
from pagedc.templates.cuda.launcher.table import LaunchTable

ALIGNMENT = 256
TYPES = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp8e4nv": "float8_e4m3fn",
    "i8": "int8",
    "u8": "uint8",
    "i32": "int32",
    "u32": "uint32",
    "i64": "int64",
}


class Interpreter:
    """A device whose memory is the process's own."""

    def __init__(self, table: LaunchTable, name: str) -> None:
        if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
            raise DeviceError("triton is imported already, not as an interpreter: set TRITON_INTERPRET=1")
        os.environ["TRITON_INTERPRET"] = "1"
        self._table, self._name = table, name
        self._memory: list[NDArray[np.uint8]] = []

    def allocate(self, num_bytes: int) -> int:
        """Zeroed memory at a multiple of 256 bytes."""
        self._memory.append(np.zeros(num_bytes + ALIGNMENT, np.uint8))
        address: int = self._memory[-1].ctypes.data
        return address + -address % ALIGNMENT

    def pinned(self, num_bytes: int) -> NDArray[np.uint8]:
        """Memory of the host."""
        return np.zeros(num_bytes, np.uint8)

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Host to device."""
        source = np.ascontiguousarray(array)
        ctypes.memmove(address, source.ctypes.data, source.nbytes)

    def copy_rows(self, address: int, pitch: int, array: NDArray[Any]) -> None:
        """Host rows to device rows `pitch` bytes apart."""
        for index, row in enumerate(array):
            self.copy_in(address + index * pitch, row)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Device to host."""
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def prepare(self, binary: int, grid: list[int], values: list[Any]) -> Callable[[], None]:
        """A launch."""
        entry = self._table.binaries[binary]
        kernel = self._function(f"{entry['module']}:{entry['function']}")
        given = dict(
            zip(entry["parameters"], map(_argument, entry["parameters"].values(), values), strict=True)
        )
        constants = {name: self._constant(value) for name, value in entry["constants"].items()}
        constants["INTERPRET"] = True

        def launch() -> None:
            kernel[tuple(grid)](**given, **constants)

        return launch

    def run(self, launches: Iterable[Callable[[], None]]) -> None:
        """Now, in order."""
        for launch in launches:
            launch()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work itself: it reads its addresses anew each time."""
        return work

    def mark(self, slot: int) -> None:
        """Everything has happened already."""

    def wait(self, slot: int) -> None:
        """Everything has happened already."""

    def use(self) -> None:
        """Any thread may."""

    def synchronize(self) -> None:
        """Everything has happened already."""

    def close(self) -> None:
        """Free the memory."""
        self._memory.clear()

    def _function(self, name: str) -> Any:
        module, _, function = name.partition(":")
        return getattr(importlib.import_module(f"{self._name}.kernels.{module}"), function)

    def _constant(self, value: Any) -> Any:
        return self._function(value) if isinstance(value, str) and ":" in value else value


def _argument(kind: str, value: Any) -> Any:
    """A number, or a tensor that begins at an address: kernels look at nothing but its place and type."""
    if not kind.startswith("*"):
        return value
    import torch

    memory = (ctypes.c_uint8 * 16).from_address(value)
    return torch.frombuffer(memory, dtype=getattr(torch, TYPES[kind[1:]]), count=1)
