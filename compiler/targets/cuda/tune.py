"""Choose each kernel's config on this machine's GPU.

At each size class of a step the kernels' candidates are ranked by a cost model; the most promising are
compiled by several processes and judged by what their cubins need; what is left is timed by the package's own
launcher. The compile, and the timing, each end with the seconds of the mode, the defaults and the most
promising first.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pagedc.compiler.errors import ToolchainError
from pagedc.compiler.progress import Phase
from pagedc.compiler.targets.cuda.arch import Gpu, has_pdl
from pagedc.compiler.targets.cuda.attention_launches import max_blocks_per_seq
from pagedc.compiler.targets.cuda.candidates import SPLIT_K
from pagedc.compiler.targets.cuda.configs import Configs
from pagedc.compiler.targets.cuda.cost import CHIPS
from pagedc.compiler.targets.cuda.cross_compile import compile_binaries, describe
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.launch_table import LaunchTable, dump, global_scratch_bytes
from pagedc.compiler.targets.cuda.operands import FIXED, context_of, operand_bytes, step_inputs
from pagedc.compiler.targets.cuda.points import Point, families, is_tunable, timed_points
from pagedc.compiler.targets.cuda.sources import kernel_sources
from pagedc.compiler.targets.cuda.trials import Trial, chosen, judge, shortlist, trials_of
from pagedc.compiler.targets.cuda.tuned_rows import row_of, untimed_row
from pagedc.compiler.tuning import BUDGETS, Mode, Tuning

COMPILE_SECONDS: dict[Mode, float] = {"none": 0, "quick": 90, "full": 900}  # on all processes at once
GAIN = 1.02  # what another config must be faster by than the default
ARENA_BYTES = 512 << 20  # at least, to measure the copy bandwidth in
CACHE_BYTES = 128 << 20  # of the second level, at most
MAX_COPIES = 16
MAX_RESTARTS = 4  # after kernels that fail
START_SECONDS = 60  # for a process that times, beside 4 times its budget: after that a kernel hangs

Family = list[list[Trial]]  # by point


def tune(
    kernels: Kernels, points: list[Point], gpu: Gpu, mode: Mode, processes: int, source: str, phase: Phase
) -> Tuning:
    """Time the points' kernels. Raises ToolchainError where none can be timed at all."""
    chip = CHIPS[gpu.arch]
    limits = kernels.facts.limits
    tunable = [family for family in families(points) if is_tunable(family[0].spec)]
    found: list[tuple[list[Point], Family]] = []
    for family in tunable:
        timed = timed_points(family, mode)
        trials = [trials_of(point, chip, context_of(point, limits.max_model_len)) for point in timed]
        shortlist(trials, mode)
        found.append((family, trials))
    queue = _in_turn([trials for _, family in found for trials in family])
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pagedc-tune-") as folder:
        if queue:
            package = Path(folder)
            phase.note(f"compiling {len(queue)} candidates")
            _compile(package, kernels, queue, gpu.arch, processes, mode)
            queue = [trial for trial in queue if trial.reason is None]
            measured = _Clock(package, kernels, mode, phase).run(queue)
    rows = []
    for family, trials in found:
        best = {trial.point: trial for trial in chosen(trials, GAIN)}
        of_point = {each[0].point: each for each in trials}
        for point in family:
            if point in best:
                rows.append(row_of(best[point], of_point[point], measured))
            else:
                rows.append(untimed_row(point, next(iter(best.values())).candidate))
    phase.note(
        f"{len(rows)} kernels, {sum(bool(trial.samples) for trial in queue)} candidates timed on {gpu.name}"
    )
    return Tuning(
        device=gpu.name,
        mode=mode,
        kernels=rows,
        read_bandwidth=measured.get("copy"),
        peak=measured.get("peak"),
        source=source,
        arch=gpu.arch,
    )


def _in_turn(points: list[list[Trial]]) -> list[Trial]:
    """What is to be timed: each point's default, then each point's most promising, and so on."""
    queues = []
    for trials in points:
        kept = [trial for trial in trials if trial.reason is None]
        queues.append(sorted(kept, key=lambda trial: (not trial.is_default, trial.predicted)))
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def _compile(
    package: Path, kernels: Kernels, queue: list[Trial], arch: str, processes: int, mode: Mode
) -> None:
    """Write what is to be timed as a package's kernels, and judge each trial by its cubins."""
    table = LaunchTable(pdl=has_pdl(arch))
    for trial in queue:
        candidate, point = trial.candidate, trial.point
        slices = {point.spec: split} if (split := dict(candidate.shared).get(SPLIT_K)) else {}
        kernels.configs = Configs({(point.kernel, point.spec, point.tier): candidate.config}, slices)
        trial.launches, arguments = table.plan(point.used_by, point.bucket)
        trial.given = dict(arguments.num_bytes)
    binaries = list(table.binaries)
    for name, text in kernel_sources(kernels, binaries).items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    facts = compile_binaries(package, binaries, arch, processes, seconds=COMPILE_SECONDS[mode])
    entries = [describe(binary) | fact for binary, fact in zip(binaries, facts, strict=True)]
    scratch = global_scratch_bytes((trial.launches for trial in queue), entries)
    written = {"arch": arch, "global_scratch": scratch, "buckets": {}, "kernels": {}, "binaries": entries}
    (package / "kernels" / "kernels.json").write_bytes(dump(written))
    for trial in queue:
        judge(trial, entries, CHIPS[arch])


class _Clock:
    """Runs the process that times, and starts it again after a kernel that failed."""

    def __init__(self, package: Path, kernels: Kernels, mode: Mode, phase: Phase) -> None:
        self._package, self._kernels = package, kernels
        self._seconds, self._phase = BUDGETS[mode], phase
        self._inputs: dict[str, str] = {}  # name of an array → its file
        self._arena = ARENA_BYTES
        self._zeros: dict[str, int] = {}

    def run(self, queue: list[Trial]) -> dict[str, Any]:
        """Fill the trials' samples; returns `copy` (bytes a second) and `peak` (operations a second)."""
        jobs = {number: self._job(number, trial) for number, trial in enumerate(queue)}
        limits: dict[str, Any] = {}
        for _ in range(MAX_RESTARTS):
            begun: int | None = None
            code, lines, complaint = self._start([*jobs.values()], wants_limits=not limits)
            for line in lines:
                if "limits" in line:
                    limits = line["limits"]
                elif "begin" in line:
                    begun = line["begin"]
                else:
                    queue[line["id"]].samples.append(line["us"])
                    begun = None
            if code == 0 or begun is None:
                break
            queue[begun].reason, queue[begun].samples = "fails on the GPU", []
            jobs = {
                number: job for number, job in jobs.items() if not queue[number].samples and number != begun
            }
        if not any(trial.samples for trial in queue):
            raise ToolchainError(f"no kernel could be timed: {complaint}; give --tune none")
        for trial in queue:
            if not trial.samples and trial.reason is None:
                trial.reason = "no time to time"
        return limits

    def _start(
        self, jobs: list[dict[str, Any]], *, wants_limits: bool
    ) -> tuple[int, list[dict[str, Any]], str]:
        given = {
            "wants_limits": wants_limits,
            "seconds": self._seconds,
            "arena": self._arena,
            "zeros": self._zeros,
            "inputs": self._inputs,
            "jobs": jobs,
        }
        self._phase.note(f"timing {len(jobs)} candidates for {self._seconds:.0f} s")
        command = [sys.executable, "-m", "pagedc.compiler.targets.cuda.timing", str(self._package)]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(given),
                capture_output=True,
                text=True,
                check=False,
                timeout=START_SECONDS + 4 * self._seconds,
            )
        except subprocess.TimeoutExpired as error:  # a kernel that hangs
            text = error.stdout or b""
            lines = text.decode() if isinstance(text, bytes) else text
            return 1, _parsed(lines), "it did not end"
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return done.returncode, _parsed(done.stdout), said[-1]

    def _job(self, number: int, trial: Trial) -> dict[str, Any]:
        point, limits = trial.point, self._kernels.facts.limits
        context = context_of(point, limits.max_model_len)
        operands = operand_bytes(point, trial.given, context)
        arrays = step_inputs(point, max_blocks_per_seq(limits), limits.max_num_seqs, context)
        copy_bytes = max(sum(size + 256 for size in operands.values()), 1)
        copies = min(-(-2 * CACHE_BYTES // copy_bytes), MAX_COPIES)
        self._arena = max(self._arena, copies * copy_bytes)
        for name, size in trial.given.items():
            if name in FIXED and name not in arrays:
                self._zeros[name] = max(self._zeros.get(name, 0), size)
        return {
            "id": number,
            "point": f"{point.kernel} {point.shape}",
            "default": trial.is_default,
            "predicted": trial.predicted,
            "launches": trial.launches,
            "operands": operands,
            "inputs": {name: self._file(point, name, array) for name, array in arrays.items()},
            "copies": copies,
        }

    def _file(self, point: Point, name: str, array: Any) -> str:
        place = f"{point.kernel} {point.shape} {name}"
        if place not in self._inputs:
            self._inputs[place] = f"{len(self._inputs)}.npy"
            np.save(self._package / self._inputs[place], array)
        return place


def _parsed(text: str) -> list[dict[str, Any]]:
    """The lines that are whole."""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]
