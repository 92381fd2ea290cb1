"""g++: what it is asked to compile for, and how it is called."""

import errno
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from pagedc.compiler.errors import ToolchainError
from pagedc.kernels.cpu import COMPILE_FLAGS

# -fno-gnu-unique: two packages in one process must not share statics of inline templates.
FLAGS = [
    *COMPILE_FLAGS,
    "-fno-gnu-unique",
    "-fvisibility=hidden",
    "-static-libstdc++",
    "-static-libgcc",
    "-Wall",
]

# What /proc/cpuinfo calls the instructions that a level uses.
AVX2 = ["avx2", "bmi2", "f16c", "fma"]
AVX512 = ["avx512bw", "avx512dq", "avx512f", "avx512vl"]
LEVEL_FEATURES = {"x86-64-v3": AVX2, "x86-64-v4": AVX2 + AVX512}
NATIVE_CANDIDATES = [*AVX2, *AVX512, "avx512_bf16", "avx512_vnni", "avx512vbmi", "avx512_vbmi2"]


def compiler() -> str:
    """The path of $CXX, or of g++, or of what stands for it. Raises ToolchainError."""
    if named := os.environ.get("CXX"):
        if path := shutil.which(named):
            return path
        raise ToolchainError(
            f"CXX is {named!r}, which is no program here: unset it, or install that compiler"
        )
    for name in ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            return path
    raise ToolchainError("no C++ compiler: install g++ (Debian, Ubuntu: apt install g++)")


def version() -> str:
    """The compiler's name and version, as it says them."""
    done = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def compile_library(source: Path, output: Path, level: str, include: Path | None = None) -> None:
    """Compile a source to a library; headers are sought beside it, or in `include`.

    Raises ToolchainError with the compiler's first complaint.
    """
    march = [] if level == "generic" else [f"-march={level}"]
    command = [
        compiler(),
        *FLAGS,
        *march,
        *([] if include is None else [f"-I{include}"]),
        f"-ffile-prefix-map={source.parent}=.",
        "-o",
        str(output),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        errors = [line for line in lines if "error" in line]
        raise ToolchainError(f"{command[0]} failed on {source.name}: {(errors or lines[-1:])[0]}")


def cpu_flags() -> set[str]:
    """Flags of this machine's first processor; empty where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(match[1].split()) if match else set()


def required_features(level: str) -> list[str]:
    """What a machine must have to load a package of this level."""
    if level in LEVEL_FEATURES:
        return sorted(LEVEL_FEATURES[level])
    flags = cpu_flags()
    return sorted(flag for flag in NATIVE_CANDIDATES if flag in flags)


def device_name() -> str:
    """What this machine calls its processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()
