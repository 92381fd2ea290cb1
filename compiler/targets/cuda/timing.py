"""Time launches on this machine's GPU: a process of its own, for a kernel that fails takes its process along.

A job's launches are captured in a graph, many in a row, over copies of their operands that together exceed
the second-level cache, as a model's other weights push them out. Rounds go through the jobs, from the second
on through the fastest of each point only. The first round takes the jobs in the order they are given: where
time ends, the rest stays untimed.

From standard input: a JSON object (`seconds`, `jobs`, …). To standard output, a JSON object a line: `limits`
first, where they are wanted, then `begin` and `us` of a job. The folder of argv holds kernels/kernels.json
and cubins, as a package.
"""

import contextlib
import ctypes
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pagedc.templates.cuda.launcher.driver import Driver
from pagedc.templates.cuda.launcher.table import LaunchTable

L2_BYTES = 38  # of CUdevice_attribute
PATTERN_BYTES = 64 << 20
COPY_BYTES = 512 << 20
ALIGNMENT = 256
MAX_COPIES = 16
SAMPLES, ROUNDS, FINALISTS = 5, 3, 3
SAMPLE_US = 300  # of launches in a graph: the time of launching it is small beside


class Timer(Driver):
    """A device with a clock and one arena, which every job's operands are laid out in."""

    def __init__(self, package: Path, arena_bytes: int) -> None:
        super().__init__(package, LaunchTable(package))
        l2 = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(l2), ctypes.c_int(L2_BYTES), self._device)
        self.l2_bytes = l2.value
        self.arena = self.allocate(arena_bytes)
        self._clock = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in self._clock:
            self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        pattern = self.pinned(PATTERN_BYTES)
        pattern[:] = random_bfloat16(PATTERN_BYTES)
        for start in range(0, arena_bytes, PATTERN_BYTES):
            self.copy_in(self.arena + start, pattern[: min(PATTERN_BYTES, arena_bytes - start)])

    def seconds(self, work: Any) -> float:
        """Of what `work` puts on the stream, once it is there."""
        begin, end = self._clock
        elapsed = ctypes.c_float()
        self._call("cuEventRecord", begin, self._stream)
        work()
        self._call("cuEventRecord", end, self._stream)
        self._call("cuEventSynchronize", end)
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), begin, end)
        return elapsed.value / 1e3

    def copy_bandwidth(self, num_bytes: int) -> float:
        """Bytes read and written a second, from the arena's first half to its second."""
        half = num_bytes // 2
        target, source = ctypes.c_uint64(self.arena + half), ctypes.c_uint64(self.arena)
        size = ctypes.c_size_t(half)
        best = min(
            self.seconds(lambda: self._call("cuMemcpyDtoDAsync_v2", target, source, size, self._stream))
            for _ in range(SAMPLES)
        )
        return 2 * half / best

    def forget(self) -> None:
        """Free the graph that was captured last."""
        self._call("cuGraphExecDestroy", self._graphs.pop())


def random_bfloat16(num_bytes: int) -> Any:
    """Bytes that are small numbers as bfloat16, and no NaN as float32 or float16; zeros would run faster."""
    values = np.random.default_rng(0).uniform(-1, 1, num_bytes // 2).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def time_job(timer: Timer, job: dict[str, Any], inputs: dict[str, int]) -> float:
    """Microseconds of one call."""
    places, copy_bytes = {}, 0
    for name, num_bytes in job["operands"].items():
        places[name] = copy_bytes
        copy_bytes += -(-num_bytes // ALIGNMENT) * ALIGNMENT
    copies = min(max(-(-2 * timer.l2_bytes // copy_bytes), 1), MAX_COPIES, job["copies"])
    prepared = []
    for copy in range(copies):
        base = timer.arena + copy * copy_bytes
        given = inputs | {name: base + place for name, place in places.items()}
        for launch in job["launches"]:
            values = [given[a[0]] + a[1] if isinstance(a, list) else a for a in launch["args"]]
            prepared.append(timer.prepare(launch["binary"], launch["grid"], values))
    turns = max(1, min(int(SAMPLE_US / (copies * max(job["predicted"], 1.0))), 64))
    replay = timer.capture(lambda: timer.run(prepared * turns))
    timer.seconds(replay)  # the first brings code in
    found: float = statistics.median(timer.seconds(replay) for _ in range(SAMPLES)) / (turns * copies)
    timer.forget()
    return 1e6 * found


def matmul_rate() -> float | None:
    """Operations a second of cuBLAS on bfloat16 [8192, 8192]; None where torch has no GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    n, best = 8192, float("inf")
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(SAMPLES):
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(4):
            torch.mm(a, b)
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 4e3)
    return 2 * n**3 / best


def say(**words: Any) -> None:
    """A line for the tuner."""
    print(json.dumps(words), flush=True)


def main() -> int:
    """Time until the seconds are over."""
    package, given = Path(sys.argv[1]), json.load(sys.stdin)
    peak = None
    if given["wants_limits"]:
        with contextlib.suppress(Exception):  # torch's own trouble with this GPU is none of the kernels'
            peak = matmul_rate()
    timer = Timer(package, given["arena"])
    if given["wants_limits"]:
        say(limits={"copy": timer.copy_bandwidth(min(given["arena"], COPY_BYTES)), "peak": peak})
    inputs = {}
    for name, file in given["inputs"].items():
        array = np.load(package / file)
        inputs[name] = timer.allocate(array.nbytes)
        timer.copy_in(inputs[name], array)
        timer.synchronize()
    inputs |= {name: timer.allocate(size) for name, size in given["zeros"].items()}
    begin, jobs = time.monotonic(), given["jobs"]
    fastest: dict[str, dict[int, float]] = {}
    for number in range(ROUNDS):
        for job in jobs:
            if time.monotonic() - begin > given["seconds"]:
                return 0
            say(begin=job["id"])
            own = {name: inputs[place] for name, place in job["inputs"].items()}
            us = time_job(timer, job, inputs | own)
            fastest.setdefault(job["point"], {}).setdefault(job["id"], us)
            say(id=job["id"], us=us)
        if number == 0:
            kept = {i for found in fastest.values() for i in sorted(found, key=found.__getitem__)[:FINALISTS]}
            jobs = [job for job in jobs if job["id"] in kept or job["default"]]
    return 0


if __name__ == "__main__":
    sys.exit(main())
