"""Compile a C++ source against the kernel headers and load it."""

import ctypes
import fcntl
import hashlib
import subprocess
from functools import cache
from pathlib import Path

from pagedc.kernels.cpu import COMPILE_FLAGS

HEADERS = Path(__file__).parents[2] / "kernels" / "cpu"
MARCHES = ("native", "x86-64-v4", "x86-64-v3", "x86-64")

directory: Path | None = None  # of the libraries of this run of the tests, shared by its processes


@cache
def compile_harness(source: str, march: str = "native", flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Compile `source` for `-march=march` and load it. Raises RuntimeError with g++'s words.

    The source includes the kernel headers by their bare names.
    """
    assert directory is not None, "tests/conftest.py sets it"
    cpp = directory / f"{hashlib.sha256(repr((source, march, flags)).encode()).hexdigest()[:16]}.cpp"
    library = cpp.with_suffix(".so")
    with cpp.open("a") as lock:  # of several processes that come at once, one compiles
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            cpp.write_text(source)
            _compile(cpp, library, f"-march={march}", *flags)
    return ctypes.CDLL(str(library))


def _compile(cpp: Path, library: Path, *flags: str) -> None:
    warnings = ("-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-psabi")
    command = ["g++", *COMPILE_FLAGS, *warnings, *flags, f"-I{HEADERS}", str(cpp)]
    done = subprocess.run([*command, "-o", str(library)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


@cache
def multiplies_bf16() -> bool:
    """Whether -march=native has VDPBF16PS."""
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text().split()


@cache
def supported_marches() -> tuple[str, ...]:
    """The levels of MARCHES that this machine can run."""
    features = set(Path("/proc/cpuinfo").read_text().split())
    needs = {"x86-64-v4": {"avx512f", "avx512bw", "avx512vl"}, "x86-64-v3": {"avx2", "fma", "f16c"}}
    return tuple(march for march in MARCHES if needs.get(march, set()) <= features)
