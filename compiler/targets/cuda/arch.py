"""The GPU architectures that a package can be compiled for, and what is the same on all."""

import ctypes
from typing import NamedTuple

from pagedc.compiler.errors import OptionError

ARCHS = {"sm_80": 80, "sm_90": 90, "sm_100": 100}  # A100, H100 and H200, B200
DEFAULT = "sm_90"
BLOCK_SIZE = 16  # tokens of a block of the KV cache
INTERPRETER = "interpreter"  # no GPU at all: the kernels run under Triton's interpreter, for tests
MAJOR, MINOR = 75, 76  # of CUdevice_attribute


def parse_target(text: str) -> str:
    """The architecture of `cuda:ARCH`, else this machine's, or sm_90 without a GPU. Raises OptionError."""
    kind, _, arch = text.partition(":")
    if kind != "cuda" or (arch and arch not in (*ARCHS, INTERPRETER)):
        raise OptionError(
            f"target is {text!r}, not one of: cpu, cuda, {', '.join(f'cuda:{a}' for a in ARCHS)}"
        )
    return arch or _arch_here() or DEFAULT


def has_pdl(arch: str) -> bool:
    """Whether a kernel may start before the one before it has ended (programmatic dependent launch)."""
    return ARCHS.get(arch, 0) >= 90


class Gpu(NamedTuple):
    """The first GPU of this machine."""

    name: str  # "NVIDIA H200"
    arch: str  # "sm_90"


def gpu_here() -> Gpu | None:
    """None where there is no driver or no GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    cuda.cuDeviceGetName(name, len(name), device)
    return Gpu(name.value.decode(), f"sm_{major.value}{minor.value}")


def _arch_here() -> str | None:
    """This machine's, if it is one of ARCHS."""
    gpu = gpu_here()
    return gpu.arch if gpu is not None and gpu.arch in ARCHS else None
