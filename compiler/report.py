"""What a compile tells at its end, and `pagedc report` later: the package, and each kernel that was timed.

The rows lie in the package as tuning.json; a table and `--json` are two prints of the same rows.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pagedc.compiler.errors import PackageError
from pagedc.compiler.progress import PhaseTime
from pagedc.compiler.tuning import TUNING_NAME, TunedKernel, Tuning
from pagedc.runtime.manifest import BROKEN_JSON, Accuracy, Manifest, manifest_path, parse_manifest

if TYPE_CHECKING:
    from rich.console import Console


def load_manifest(package: Path) -> Manifest:
    """The manifest of a package; raises PackageError if there is none that this version reads."""
    try:
        return parse_manifest(manifest_path(package).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise PackageError(f"{package} is not a package: it has no manifest.json") from None
    except OSError as error:
        raise PackageError(f"the manifest of {package} cannot be read: {error.strerror}") from None
    except BROKEN_JSON as error:
        raise PackageError(f"the manifest of {package} cannot be read: {error}") from None


def load_tuning(package: Path) -> Tuning:
    """The tuning.json of a package; raises PackageError."""
    path = package / TUNING_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Tuning)
    except FileNotFoundError:
        raise PackageError(f"{package} has no {TUNING_NAME}") from None
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from None
    except BROKEN_JSON as error:
        raise PackageError(f"{path} cannot be read: {error}") from None


def report_as_dict(package: Path, phases: list[PhaseTime] | None = None) -> dict[str, Any]:
    """The report for a machine; `phases` are those of the compile that has just ended."""
    manifest, tuning = load_manifest(package), load_tuning(package)
    report: dict[str, Any] = {
        "package": str(package),
        "model": msgspec.to_builtins(manifest.model),
        "target": msgspec.to_builtins(manifest.target),
        "dtype": manifest.dtype,
        "quantization": manifest.quantization,
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "weights_bytes": manifest.memory.weights_bytes,
        "accuracy": msgspec.to_builtins(manifest.accuracy),
        "tuning": msgspec.to_builtins(tuning),
    }
    if phases is not None:
        report["seconds"] = round(sum(phase.seconds for phase in phases), 3)
        report["phases"] = [
            {"name": phase.name, "seconds": round(phase.seconds, 3), "note": phase.note} for phase in phases
        ]
    return report


def accuracy_line(accuracy: Accuracy) -> str:
    """What rounding the weights cost, in words."""
    change = accuracy.perplexity / accuracy.reference_perplexity - 1
    return (
        f"perplexity {accuracy.perplexity:.3f}, {change:+.2%} of the unquantised model's; KL "
        f"{accuracy.mean_kl:.5f}; {accuracy.num_tokens} tokens"
    )


def print_report(console: "Console", package: Path, seconds: float | None = None) -> None:
    """The report for a person: the table of kernels, then what was made and how to serve it."""
    manifest, tuning = load_manifest(package), load_tuning(package)
    if tuning.kernels:
        console.print(_table(tuning))
    else:
        console.print("no kernel was timed: each is the default of its shape and instructions")
    size = sum(entry.size for entry in manifest.files.values())
    weights = (
        f"{manifest.dtype} weights" if manifest.quantization == "none" else manifest.quantization + " weights"
    )
    took = "" if seconds is None else f" in {seconds:.1f} s"
    summary = f"{package}: {manifest.model.name}, {weights}, {size / 1e6:.0f} MB{took}"
    console.print(summary, markup=False, highlight=False, soft_wrap=True)
    if manifest.accuracy is not None:
        console.print(accuracy_line(manifest.accuracy), markup=False, highlight=False, soft_wrap=True)
    console.print(next_step(package, manifest), markup=False, highlight=False, soft_wrap=True)


def next_step(package: Path, manifest: Manifest) -> str:
    """How to serve a package, or what it lacks for that."""
    if "tokenizer/tokenizer.json" in manifest.files:
        return f"serve it: {package / 'serve'} --port 8000"
    return (
        "it has no tokenizer and cannot be served: put a tokenizer.json beside the weights and compile again"
    )


def _table(tuning: Tuning) -> Any:
    from rich.table import Table
    from rich.text import Text

    bandwidth = "" if tuning.read_bandwidth is None else f", {tuning.read_bandwidth / 1e9:.1f} GB/s read"
    peak = f", {tuning.peak / 1e12:.0f} TFLOP/s" if tuning.peak and tuning.arch else ""
    title = f"{tuning.device}{bandwidth}{peak}{', not tuned' if tuning.mode == 'none' else ''}"
    table = Table(title=title, title_justify="left", title_style="dim")
    is_gpu = bool(tuning.arch)
    columns = [("kernel", False), ("shape", False), ("candidates", True)]
    columns += [("left out", False)] if is_gpu else []
    columns += [("config", False), ("µs", True)] + ([("achieved", True)] if is_gpu else [])
    for name, right in (*columns, ("% of limit", True), ("speed-up", True)):
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    for row in tuning.kernels:
        cells = [row.kernel, row.shape, str(row.candidates)]
        cells += [left_out(row)] if is_gpu else []
        cells += [row.config, _number(row.microseconds, "{:.1f}")] + ([achieved(row)] if is_gpu else [])
        cells += [_number(row.percent_of_limit, "{:.0f}"), _number(row.speedup, "{:.2f} ×")]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def left_out(row: TunedKernel) -> str:
    """How many candidates were not timed, and why: "54 predicted slower, 2 spills"."""
    return ", ".join(f"{count} {reason}" for reason, count in row.pruned.items())


def achieved(row: TunedKernel) -> str:
    """In what binds: "3.91 TB/s" or "612 TFLOP/s"."""
    if row.rate is None:
        return "–"
    unit = "TB/s" if row.limit == "bandwidth" else "TFLOP/s"
    return f"{row.rate / 1e12:.3g} {unit}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
