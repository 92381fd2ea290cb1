"""A GPU: decode, prefill, serving and boot beside the machine's own limits and beside transformers.

Models have the shapes of known ones and random weights; nothing is downloaded. Each part runs in a process of
its own, so that its memory is free afterwards and its failure is its own; parts are left out, and named, once
the budget is spent. Unattended, on a machine with one GPU (torch ≥ 2.11, triton ≥ 3.6, transformers ≥ 5.17):

python -m benchmarks.gpu [--budget SECONDS] [--models NAME…] [--out DIR] [--target cuda]

What such a machine's Python lacks comes from a folder in PYTHONPATH, filled where there is a network by
`pip install --only-binary=:all: --python-version 3.12 --no-deps --target DIR` and the names that an import
misses (msgspec, tornado, prometheus-client, gguf, …); then `PYTHONPATH=src:DIR make PYTHON=python gpu-check`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.gpu_shapes import SHAPES

# Those that carry a floor come first.
ORDER = ("llama-3.2-1b", "llama-3.1-8b", "qwen3-0.6b", "qwen3-moe", "qwen3-8b")


class Budget:
    """Seconds that are left; a part that does not fit is not begun."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()


def run_part(module: str, arguments: list[str], budget: Budget, least: float) -> dict[str, Any]:
    """The JSON that a part prints last; what went wrong where it prints none."""
    if budget.left < least:
        return {"left_out": f"{budget.left:.0f} s left, and it wants {least:.0f}"}
    command = [sys.executable, "-m", module, *arguments]
    print("$", " ".join(command), flush=True)
    begin = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=budget.left, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": "the budget ended"}
    seconds = round(time.monotonic() - begin, 1)
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        return {"failed": lines[-1][:400], "exit_code": done.returncode, "seconds": seconds}
    return result | {"seconds": seconds}


def compile_package(name: str, target: str, directory: Path, budget: Budget) -> tuple[Path, dict[str, Any]]:
    """A package of a shape with random weights."""
    config = directory / name / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(SHAPES[name]))
    package = directory / f"{name}.pagedc"
    arguments = ["compile", str(config.parent), "-o", str(package), "--target", target, "--random-weights"]
    arguments += ["--dtype", "bfloat16", "--max-model-len", "17408", "--max-num-seqs", "256"]
    arguments += ["--max-num-batched-tokens", "4096", "--json"]
    begin = time.monotonic()
    command = [sys.executable, "-m", "pagedc.cli", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=budget.left, check=False)
    except subprocess.TimeoutExpired:
        return package, {"failed": "the budget ended"}
    seconds = round(time.monotonic() - begin, 1)
    if done.returncode:
        return package, {"failed": done.stderr.strip()[-400:], "seconds": seconds}
    return package, {"seconds": seconds, "phases": json.loads(done.stdout).get("phases")}


def main() -> int:
    """Everything that the budget allows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=ORDER)
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", record.RESULTS)))
    arguments = parser.parse_args()
    budget = Budget(arguments.budget)
    figures: dict[str, Any] = {"limits": run_part("benchmarks.gpu_limits", [], budget, 20)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as directory:
            package, compiled = compile_package(name, arguments.target, Path(directory), budget)
            figures[name] = {"compile": compiled}
            if "failed" not in compiled:
                figures[name]["engine"] = run_part("benchmarks.gpu_engine", [str(package)], budget, 15)
                shape = str(package.parent / name)
                figures[name]["transformers"] = run_part("benchmarks.gpu_transformers", [shape], budget, 60)
        # After each model: what was measured outlives a machine that is taken away.
        (arguments.out / "gpu.json").write_text(json.dumps(as_record(figures), indent=2) + "\n")
    print_table(figures)
    return 0


def as_record(figures: dict[str, Any]) -> dict[str, Any]:
    """With the machine and the versions."""
    return {
        "benchmark": "gpu",
        "machine": record.machine(),
        "versions": record.versions(),
        "figures": figures,
    }


def print_table(figures: dict[str, Any]) -> None:
    """Decode and prefill beside the limits."""
    limits = figures["limits"]
    bandwidth, flops = limits.get("copy_bytes_per_s"), limits.get("matmul_flops_per_s")
    print(f"copy {bandwidth and bandwidth / 1e12} TB/s, matmul {flops and flops / 1e12} TFLOP/s")
    for name, parts in figures.items():
        for row in parts.get("engine", {}).get("rows", []) if name != "limits" else []:
            share = ""
            if bandwidth and row.get("bytes"):
                share = f"{row['bytes'] / row['step_s'] / bandwidth:.1%} of bandwidth"
            if flops and row.get("flops"):
                share = f"{row['flops'] / row['step_s'] / flops:.1%} of matmul"
            time_per_step = f"{1e3 * row['step_s']:9.3f} ms {row['tokens_per_s']:10.0f} tok/s"
            print(f"{name:14} {row['what']:28} {time_per_step}  {share}")


if __name__ == "__main__":
    sys.exit(main())
