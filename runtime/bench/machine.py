"""The machine's limits, measured in the same run as what they limit.

Read bandwidth is numpy's: each thread takes the maximum of its own part of a buffer that no cache holds; on
the machines tried it reads as fast as a loop in C++. The peak of the products was timed when the package was
compiled, if anything was; nothing is compiled here.
"""

import os
import statistics
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

BYTES = 512 << 20
PASSES = 3


def read_bandwidth(num_threads: int, num_bytes: int = BYTES, passes: int = PASSES) -> float:
    """Bytes a second, the median of a few passes."""
    parts = np.array_split(np.ones(num_bytes // 8, np.int64), num_threads)
    rates = []
    for _ in range(passes):
        threads = [threading.Thread(target=part.max) for part in parts]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates.append(num_bytes / (time.perf_counter() - begin))
    return statistics.median(rates)


class _Tuning(msgspec.Struct, frozen=True):
    peak: float | None = None
    threads: int | None = None


def compiled_peak(package: Path, num_threads: int) -> float | None:
    """Operations a second on so many threads, as tuning.json has it; None where it was not measured."""
    try:
        tuning = msgspec.json.decode((package / "tuning.json").read_bytes(), type=_Tuning)
    except (OSError, msgspec.MsgspecError):
        return None
    if tuning.peak is None or not tuning.threads:
        return None
    return tuning.peak * num_threads / tuning.threads


def drop_page_cache(package: Path) -> None:
    """Ask the kernel to forget the package's files: the next reader waits for the disk."""
    for path in package.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # dirty pages are not dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def peak_memory(pid: int) -> int:
    """Bytes: the largest resident sets of a process and of all that it started, added up."""
    total = 0
    for process in [pid, *descendants(pid)]:
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) << 10 for line in status.splitlines() if "VmHWM" in line), 0)
    return total


def descendants(pid: int) -> list[int]:
    """The processes that it started, and those that they did."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in tasks.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found
