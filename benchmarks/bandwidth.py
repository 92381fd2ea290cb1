"""Read bandwidth of this machine with 1 … n threads: the limit of decoding one sequence.

python -m benchmarks.bandwidth [--threads N]
"""

import argparse
import os
import subprocess
from pathlib import Path

from benchmarks import record

SOURCE = Path(__file__).with_suffix(".cpp")
BINARY = Path("build/benchmarks/bandwidth")
MEGABYTES = 1024  # beyond any cache
PASSES = 10


def read_bandwidth(num_threads: int, passes: int = PASSES) -> list[float]:
    """Bytes a second of each pass."""
    if not BINARY.exists() or BINARY.stat().st_mtime < SOURCE.stat().st_mtime:
        BINARY.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-O3", "-march=native", "-std=c++20", "-pthread", "-Wno-psabi"]
        subprocess.run([record.compiler(), *flags, str(SOURCE), "-o", str(BINARY)], check=True)
    command = [str(BINARY.resolve()), str(num_threads), str(MEGABYTES), str(passes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    """Measure, print and write."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=cores, help="up to this many (default: %(default)s)")
    figures = {}
    for num_threads in range(1, parser.parse_args().threads + 1):
        found = record.summary(read_bandwidth(num_threads))
        figures[str(num_threads)] = found
        low, median, high = (found[name] / 1e9 for name in ("min", "median", "max"))
        print(f"{num_threads:>3} threads  {median:6.1f} GB/s in the median, {low:.1f} to {high:.1f}")
    record.write("bandwidth", {"bytes_per_second_by_threads": figures})


if __name__ == "__main__":
    main()
