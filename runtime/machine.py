"""Whether this machine can run what a package was compiled for."""

import platform
from pathlib import Path

from pagedc.runtime.config import is_interpreted
from pagedc.runtime.manifest import Manifest, Target

MAJOR, MINOR = 75, 76  # of CUdevice_attribute: the compute capability


def lacks(manifest: Manifest) -> str | None:
    """What is missing here, in words that follow the package's name; None where nothing is."""
    if manifest.target.kind == "cpu":
        return lacks_cpu(manifest.target)
    return None if is_interpreted(manifest) else _lacks_gpu(manifest.target)


def lacks_cpu(target: Target) -> str | None:
    """The same of a package for CPUs."""
    machine = platform.machine()
    if target.arch != machine:
        return f"compiled for {target.arch}, but this machine is {machine}; compile it here"
    missing = sorted(set(target.cpu_features) - cpu_features())
    if missing:
        return (
            f"compiled for {target.level}, but this CPU lacks {', '.join(missing)}; "
            "compile it here, or with a lower --cpu"
        )
    return None


def _lacks_gpu(target: Target) -> str | None:
    found = _gpu_arch()
    if found is None:
        return f"compiled for {target.arch}, and there is no NVIDIA GPU with its driver here"
    if found != target.arch:
        return f"compiled for {target.arch}, but this GPU is {found}; compile it for cuda:{found}"
    return None


def cpu_features() -> frozenset[str]:
    """The flags of /proc/cpuinfo that every core has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = [set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(set.intersection(*flags)) if flags else frozenset()


def _gpu_arch() -> str | None:
    """Of the first GPU that is visible, "sm_90"; None without one."""
    import ctypes  # only who has a package for GPUs

    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for number, value in ((MAJOR, major), (MINOR, minor)):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return f"sm_{major.value}{minor.value}"
