"""How much memory a GPU has left, asked of NVIDIA's driver library."""

import ctypes

from pagedc.runtime.errors import PackageError


def measure_gpu_memory() -> int:
    """Free bytes of the first visible GPU. Raises PackageError where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise PackageError(
            "this package is for a GPU, and there is no NVIDIA driver (libcuda.so.1)"
        ) from None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    calls = (
        ("cuInit", 0),
        ("cuDeviceGet", ctypes.byref(device), 0),
        ("cuDevicePrimaryCtxRetain", ctypes.byref(context), device),  # kept: the executor wants it too
        ("cuCtxSetCurrent", context),
        ("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total)),
    )
    for name, *arguments in calls:
        code = getattr(cuda, name)(*arguments)
        if code:
            raise PackageError(
                f"this package is for a GPU, but the driver finds none that works (error {code})"
            )
    return free.value
