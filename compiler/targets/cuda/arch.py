"""The GPU architectures that a package can be compiled for, and what is the same on all."""

import ctypes

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
    return arch or _gpu_here() or DEFAULT


def has_pdl(arch: str) -> bool:
    """Whether a kernel may start before the one before it has ended (programmatic dependent launch)."""
    return ARCHS.get(arch, 0) >= 90


def _gpu_here() -> str | None:
    """The newest architecture of ARCHS that this machine's first GPU runs."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    found = 10 * major.value + minor.value
    return next((name for name, number in ARCHS.items() if number == found), None)
