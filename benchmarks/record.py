"""What every benchmark writes beside its figures: the machine, the versions, the command."""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("pagedc", "numpy", "tornado", "torch", "transformers")


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write results/NAME.json and print where it lies."""
    record = {
        "benchmark": name,
        "command": without_folders(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {path}")
    return path


def without_folders(words: list[str]) -> str:
    """A command line of names: where things lay on one machine says nothing to a reader on another."""
    return " ".join(Path(word).name if "/" in word and "://" not in word else word for word in words)


def machine() -> dict[str, Any]:
    """CPU, cores that this process may use, memory in bytes."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in cpuinfo if ":" in line)
    names = {name.strip(): value.strip() for name, value in fields.items()}
    flags = [
        flag
        for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni")
        if flag in names.get("flags", "").split()
    ]
    return {
        "cpu": names.get("model name", platform.machine()),
        "flags": flags,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of Python, the C++ compiler and the libraries that are installed."""
    found = {"python": platform.python_version(), "c++": _output(compiler(), "-dumpfullversion")}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def compiler() -> str:
    """The C++ compiler that benchmarks are built with."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        sys.exit(f"there is no {name}: apt install g++, or set CXX")
    return name


def summary(values: list[float]) -> dict[str, Any]:
    """Median and range of what was measured, and each value."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": values,
    }


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
