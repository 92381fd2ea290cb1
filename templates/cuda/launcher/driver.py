"""A GPU through NVIDIA's driver library alone: no torch, no Triton, nothing is compiled.

Everything happens on one stream, so that copies and kernels keep their order. Names and layouts are those of
cuda.h (https://docs.nvidia.com/cuda/cuda-driver-api/).
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedc.templates.cuda.launcher.errors import DeviceError
from pagedc.templates.cuda.launcher.structs import (
    Copy2D,
    LaunchAttribute,
    LaunchConfig,
    PreparedLaunch,
    pack_arguments,
)
from pagedc.templates.cuda.launcher.table import LaunchTable

MAJOR, MINOR = 75, 76  # of CUdevice_attribute
MAX_DYNAMIC_SHARED = 8  # of CUfunction_attribute
STATIC_SHARED = 48 << 10  # bytes that need no permission
PROGRAMMATIC_SERIALIZATION = 6  # of CUlaunchAttributeID
THREAD_LOCAL_CAPTURE = 1  # of CUstreamCaptureMode


class Driver:
    """One GPU: the first that is visible."""

    def __init__(self, package: Path, table: LaunchTable) -> None:
        """Raises DeviceError where there is no GPU, or not the one that the package is for."""
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise DeviceError("there is no NVIDIA driver (libcuda.so.1)") from None
        self._package, self._table = package, table
        self._functions: dict[int, ctypes.c_void_p] = {}
        self._addresses: list[int] = []
        self._global_scratch = 0
        self._pinned: list[int] = []
        self._graphs: list[ctypes.c_void_p] = []
        self._events: dict[int, ctypes.c_void_p] = {}
        self._call("cuInit", ctypes.c_uint(0))
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self._check_arch()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(1))  # non-blocking

    def allocate(self, num_bytes: int) -> int:
        """Zeroed memory of the GPU, at a multiple of 256 bytes."""
        address, size = ctypes.c_uint64(), ctypes.c_size_t(max(num_bytes, 1))
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        self._call("cuMemsetD8Async", address, ctypes.c_ubyte(0), size, self._stream)
        self._addresses.append(address.value)
        return address.value

    def pinned(self, num_bytes: int) -> NDArray[np.uint8]:
        """Memory of the host that the GPU reads itself."""
        pointer = ctypes.c_void_p()
        self._call(
            "cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(max(num_bytes, 1)), ctypes.c_uint(0)
        )
        self._pinned.append(pointer.value or 0)
        memory = (ctypes.c_uint8 * max(num_bytes, 1)).from_address(pointer.value or 0)
        array: NDArray[np.uint8] = np.ctypeslib.as_array(memory)[:num_bytes]
        array[:] = 0
        return array

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Host to device; the array stays as it is until the copy has happened."""
        source = ctypes.c_void_p(array.ctypes.data)
        size = ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, size, self._stream)

    def copy_rows(self, address: int, pitch: int, array: NDArray[Any]) -> None:
        """Host rows to device rows `pitch` bytes apart."""
        copy = Copy2D.host_to_device(array.ctypes.data, array.strides[0], address, pitch)
        copy.width, copy.height = array.shape[1] * array.itemsize, array.shape[0]
        self._call("cuMemcpy2DAsync_v2", ctypes.byref(copy), self._stream)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Device to host; the array is filled after `synchronize`."""
        target, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(address), size, self._stream)

    def prepare(self, binary: int, grid: list[int], values: list[Any]) -> PreparedLaunch:
        """A launch whose structs are filled once."""
        entry = self._table.binaries[binary]
        extra = [0] * entry["hidden"]
        if entry["global_scratch"]:
            extra[0] = self._shared_scratch()
        arguments = pack_arguments([*entry["parameters"].values()], values, extra)
        config = LaunchConfig(*grid, entry["threads"], 1, 1, entry["shared"], self._stream)
        attribute = None
        if entry["pdl"]:
            attribute = LaunchAttribute(PROGRAMMATIC_SERIALIZATION)
            attribute.value[0] = 1
            config.attrs, config.num_attrs = ctypes.pointer(attribute), 1
        return PreparedLaunch(config, self._function(binary), arguments, attribute)

    def run(self, launches: Iterable[PreparedLaunch]) -> None:
        """Launch in order."""
        launch_kernel = self._cuda.cuLaunchKernelEx
        for launch in launches:
            code = launch_kernel(launch.config_pointer, launch.function, launch.arguments.pointers, None)
            if code:
                self._raise("cuLaunchKernelEx", code)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What `work` puts on the stream, as one graph; returns what launches it."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(THREAD_LOCAL_CAPTURE))
        try:
            work()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        self._call("cuGraphDestroy", graph)
        self._graphs.append(executable)
        return lambda: self._call("cuGraphLaunch", executable, self._stream)

    def mark(self, slot: int) -> None:
        """Remember this point of the stream."""
        if slot not in self._events:
            self._events[slot] = ctypes.c_void_p()
            self._call("cuEventCreate", ctypes.byref(self._events[slot]), ctypes.c_uint(0))
        self._call("cuEventRecord", self._events[slot], self._stream)

    def wait(self, slot: int) -> None:
        """Until the stream has passed the point that was marked last, if any was. Raises DeviceError where a
        kernel failed.
        """
        if slot in self._events:
            self.use()
            self._call("cuEventSynchronize", self._events[slot])

    def use(self) -> None:
        """Make it the calling thread's GPU."""
        self._call("cuCtxSetCurrent", self._context)

    def synchronize(self) -> None:
        """Wait for everything. Raises DeviceError where a kernel failed."""
        self.use()
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free everything; errors of a device that has failed are not errors of closing it."""
        with contextlib.suppress(DeviceError):
            self.synchronize()
            for graph in self._graphs:
                self._call("cuGraphExecDestroy", graph)
            for address in self._addresses:
                self._call("cuMemFree_v2", ctypes.c_uint64(address))
            for pointer in self._pinned:
                self._call("cuMemFreeHost", ctypes.c_void_p(pointer))
            self._call("cuStreamDestroy_v2", self._stream)
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)
        self._graphs, self._addresses, self._pinned = [], [], []

    def _shared_scratch(self) -> int:
        """One for all launches: a kernel writes to it only after the one before has ended."""
        if not self._global_scratch:
            self._global_scratch = self.allocate(self._table.global_scratch)
        return self._global_scratch

    def _function(self, binary: int) -> ctypes.c_void_p:
        """The loaded kernel."""
        if binary not in self._functions:
            entry = self._table.binaries[binary]
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            image = (self._package / "kernels" / entry["file"]).read_bytes()
            self._call("cuModuleLoadData", ctypes.byref(module), image)
            self._call("cuModuleGetFunction", ctypes.byref(function), module, entry["symbol"].encode())
            if entry["shared"] > STATIC_SHARED:
                shared = ctypes.c_int(entry["shared"])
                self._call("cuFuncSetAttribute", function, ctypes.c_int(MAX_DYNAMIC_SHARED), shared)
            self._functions[binary] = function
        return self._functions[binary]

    def _check_arch(self) -> None:
        major, minor = ctypes.c_int(), ctypes.c_int()
        for value, attribute in ((major, MAJOR), (minor, MINOR)):
            self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), self._device)
        found = f"sm_{major.value}{minor.value}"
        if found != self._table.arch:
            raise DeviceError(
                f"compiled for {self._table.arch}, but this GPU is {found}; compile for cuda:{found}"
            )

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            self._raise(name, code)

    def _raise(self, name: str, code: int) -> None:
        text = ctypes.c_char_p()
        self._cuda.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
        raise DeviceError(f"{name} failed: {(text.value or b'an unknown error').decode()} ({code})")
