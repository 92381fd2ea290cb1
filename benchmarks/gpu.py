"""A GPU: decode, prefill, serving and boot beside the machine's own limits, transformers, and the floors.

Models have the shapes of known ones and random weights; nothing is downloaded. Each part is a process of its
own with a budget of its own, so that its failure is its own; gpu.json is written after each of them. The exit
code is 1 where a part or a test failed, else 0: a floor that is missed, or a part for which no time was left,
is printed and is no failure. Unattended, with one GPU (torch ≥ 2.11, triton ≥ 3.6, transformers ≥ 5.17):

python -m benchmarks.gpu [--tests] [--budget SECONDS] [--models NAME…] [--out DIR] [--target cuda]

The order: tests, and beside them the packages are compiled, for neither is timed; the machine's limits and
single kernels; an engine for each of the two models that have floors; the larger with tuned kernels;
transformers; the smaller with tuned kernels; the other models. `make gpu-check` runs it so, with what the
machine's Python lacks from build/gpu-site.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.gpu_floors import LARGE, SMALL, measured, print_floors
from benchmarks.gpu_parts import Budget, Part, run_json
from benchmarks.gpu_shapes import SHAPES

OTHERS = ("qwen3-0.6b", "qwen3-moe", "qwen3-8b")
TESTS = ("tests/gpu", "tests/kernels/triton", "tests/compiler/targets/cuda/test_rows.py")
UNWANTED = "tests/kernels/triton/test_compile.py"  # compiles for three chips: proven where there is no GPU
TEST_SECONDS = 170  # at most
COMPILE_SECONDS = 60  # that packages may take beyond the tests
ROOM = 60 << 30  # bytes of all packages at once, and some
LIMITS = ["--max-model-len", "17408", "--max-num-seqs", "256", "--max-num-batched-tokens", "4096"]


class Run:
    """The figures so far, and where they are kept."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.budget, self.started = Budget(arguments.budget), arguments.budget
        self.has_room = shutil.disk_usage(work).free >= ROOM
        self.target: str = arguments.target
        self.work, self.out = work, arguments.out
        self.figures: dict[str, Any] = {}
        self.compiling: dict[str, Part] = {}
        self.out.mkdir(parents=True, exist_ok=True)

    def put(self, part: str, figures: dict[str, Any], model: str | None = None) -> None:
        """Keep a part's figures: what was measured outlives a machine that is taken away."""
        place = self.figures if model is None else self.figures.setdefault(model, {})
        place[part] = figures
        if not figures.keys().isdisjoint({"failed", "left_out"}):
            print(f"{model or ''} {part}: {figures.get('failed') or figures['left_out']}", flush=True)
        written = {
            "benchmark": "gpu",
            "machine": record.machine(),
            "versions": record.versions(),
            "floors": measured(self.figures),
            "figures": self.figures,
        }
        (self.out / "gpu.json").write_text(json.dumps(written, indent=2) + "\n")

    def part(
        self, name: str, module: str, arguments: list[str], *, model: str | None = None, **limits: float
    ) -> None:
        """Run one that prints JSON."""
        log = self.work / f"{model or ''}{name}.log"
        self.put(name, run_json(module, arguments, self.budget, log, **limits), model)

    # Packages.

    def package(self, name: str) -> Path:
        """Where one is, or will be."""
        return self.work / f"{name}.pagedc"

    def compile(self, name: str, config: dict[str, Any], *options: str, threads: int = 4) -> None:
        """Begin to compile a shape."""
        source = self.work / name / "config.json"
        source.parent.mkdir()
        source.write_text(json.dumps(config))
        command = [
            sys.executable,
            "-m",
            "pagedc",
            "compile",
            str(source.parent),
            "-o",
            str(self.package(name)),
        ]
        command += ["--target", self.target, "--random-weights", "--dtype", "bfloat16", *LIMITS]
        self.compiling[name] = Part(
            [*command, "--threads", str(threads), *options], self.work / f"{name}.compile.log"
        )

    def compiled(self, name: str, seconds: float) -> dict[str, Any]:
        """Wait for a package that is being compiled."""
        done = self.compiling.pop(name).result(min(seconds, self.budget.left))
        return {key: value for key, value in done.items() if key != "said"}

    def engine(self, name: str, part: str = "engine", *options: str) -> None:
        """Boot, prefill, decode and loads of a package. `part` is where its figures go."""
        model = name.removesuffix("-tuned")
        if self.package(name).exists():
            options = (str(self.package(name)), "--began", str(time.time()), *options)
            self.part(part, "benchmarks.gpu_engine", [*options], model=model, least=15, most=90)
            shutil.rmtree(self.package(name))

    def tuned(self, name: str) -> None:
        """The same with kernels timed here: two layers have every shape, so tuning.json is made of those."""
        if self.budget.left < 60:
            self.put("tuned", {"left_out": f"{self.budget.left:.0f} s left, and it wants 60"}, name)
            return
        tuning = self.work / f"{name}-two" / "tuning.json"
        cut = SHAPES[name] | {"num_hidden_layers": 2}
        self.compile(f"{name}-two", cut, "--tune", "quick", threads=os.cpu_count() or 4)
        self.put("tune", self.compiled(f"{name}-two", 120), name)
        tuning = self.package(f"{name}-two") / "tuning.json"
        if tuning.exists():
            shutil.copy(tuning, self.out / f"tuning-{name}.json")
            self.compile(f"{name}-tuned", SHAPES[name], "--tuning", str(tuning), threads=os.cpu_count() or 4)
            self.put("compile_tuned", self.compiled(f"{name}-tuned", 120), name)
            self.engine(f"{name}-tuned", "tuned", "--few")

    def run(self, models: list[str], *, tests: bool) -> None:
        """Everything that the budget allows."""
        suite = self._begin_tests() if tests else None
        if not self.has_room:
            models = [name for name in models if name not in OTHERS]
        for name in models:
            self.compile(name, SHAPES[name])
        if suite is not None:
            done = suite.result(min(TEST_SECONDS, self.budget.left))
            said = done.pop("said")
            (self.out / "tests.log").write_text("\n".join(said) + "\n")
            self.put("tests", done | {"summary": said[-1] if said else ""})
        deadline = TEST_SECONDS + COMPILE_SECONDS
        for name in models:
            self.put("compile", self.compiled(name, deadline - (self.started - self.budget.left)), name)
        self.part("limits", "benchmarks.gpu_limits", [], least=15, most=60)
        self.part("kernels", "benchmarks.gpu_kernels", [], least=20, most=60)
        floored = [name for name in (SMALL, LARGE) if name in models]
        for name in floored:
            self.engine(name)
        if LARGE in models:
            self.tuned(LARGE)
        if SMALL in models:
            self._transformers(SMALL)
            self.tuned(SMALL)
        for name in models:
            if name not in floored:
                self.engine(name)
        if LARGE in models:
            self._transformers(LARGE)

    def _begin_tests(self) -> Part:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--durations=15",
            *TESTS,
            f"--ignore={UNWANTED}",
        ]
        if importlib.util.find_spec("xdist") is not None:
            command += ["-n", str(min(os.cpu_count() or 1, 8))]
        return Part(command, self.work / "tests.log")

    def _transformers(self, name: str) -> None:
        self.part(
            "transformers",
            "benchmarks.gpu_transformers",
            [str(self.work / name)],
            model=name,
            least=60,
            most=150,
        )


def has_failed(figures: Any) -> bool:
    """Whether anything did, however deep; what was left out did not."""
    return isinstance(figures, dict) and ("failed" in figures or any(map(has_failed, figures.values())))


def main() -> int:
    """Measure, print, and say whether anything failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", type=float, default=520, help="seconds for everything")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=[SMALL, LARGE, *OTHERS])
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--tests", action="store_true", help="run the tests first, beside the compiles")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", record.RESULTS)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=roomy()) as directory:
        run = Run(arguments, Path(directory))
        run.run(arguments.models, tests=arguments.tests)
    print_table(run.figures)
    print_floors(run.figures)
    return 1 if has_failed(run.figures) else 0


def roomy() -> str | None:
    """Memory, where there is enough of it: gigabytes of weights are written and read within minutes."""
    shared = Path("/dev/shm")
    return str(shared) if shared.exists() and shutil.disk_usage(shared).free >= ROOM // 2 else None


def print_table(figures: dict[str, Any]) -> None:
    """Every row of every engine, beside the limits."""
    limits = figures.get("limits", {})
    bandwidth, flops = limits.get("copy_bytes_per_s"), limits.get("matmul_flops_per_s")
    print(f"copy {bandwidth and bandwidth / 1e12} TB/s, matmul {flops and flops / 1e12} TFLOP/s")
    for name in SHAPES:
        for part in ("engine", "tuned"):
            for row in figures.get(name, {}).get(part, {}).get("rows", []):
                share = ""
                if bandwidth and row.get("bytes"):
                    share = f"{row['bytes'] / row['step_s'] / bandwidth:.1%} of bandwidth"
                if flops and row.get("flops"):
                    share = f"{row['flops'] / row['step_s'] / flops:.1%} of matmul"
                step = f"{1e3 * row['step_s']:9.3f} ms {row['tokens_per_s']:10.0f} tok/s"
                print(f"{name:14} {part:7} {row['what']:20} {step}  {share}")


if __name__ == "__main__":
    sys.exit(main())
