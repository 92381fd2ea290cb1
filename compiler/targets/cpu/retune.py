"""Tune a package that is there already: other tiles in its model.cpp, built with the headers it carries."""

import os
import re
from pathlib import Path

from pagedc.compiler.errors import PackageError
from pagedc.compiler.progress import Progress
from pagedc.compiler.render import environment
from pagedc.compiler.report import load_manifest, load_tuning
from pagedc.compiler.report_page import report_page
from pagedc.compiler.seal import PackageWriter
from pagedc.compiler.targets.cpu import toolchain
from pagedc.compiler.targets.cpu.candidates import Shape
from pagedc.compiler.targets.cpu.tune import source_files
from pagedc.compiler.targets.cpu.tuned import tiles_of, tuned
from pagedc.compiler.tuning import TUNING_NAME, Mode, Tuning, dump_tuning
from pagedc.kernels.cpu.layout import parse_format
from pagedc.runtime.manifest import Limits, Manifest

SOURCE = "model.cpp"
REPORT = "report.html"
BEGIN, END = "using namespace pagedc;\n\n", "namespace {\n"  # what stands between is of an earlier tuning
LINEAR = re.compile(
    r" linear<([^<>,]+(?:<[^<>]*>)?), (\d+), (\d+)(?:, (\d+))?>\(s\.worker, s\.num_(tokens|rows)"
)


def retune(package: Path, mode: Mode, file: Path | None, threads: int, progress: Progress) -> Tuning:
    """Raises PackageError for one that cannot be tuned, OptionError for a tuning file, ToolchainError."""
    manifest = load_manifest(package)
    text = _checked_source(package, manifest)
    with progress.phase("tune") as phase:
        shapes = shapes_of(text, manifest)
        tuning = tuned(shapes, manifest.target.level, threads, mode, file, phase)
        tiles = tiles_of(shapes, tuning)
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    printed = environment().get_template("cpu/tiles.jinja").render(tiles=tiles)
    with PackageWriter(package) as writer:
        with progress.phase("build") as phase:
            writer.write_text(SOURCE, before + begin + printed + end + after)
            for name in manifest.files:
                if name not in (SOURCE, manifest.program, TUNING_NAME, REPORT):
                    _share(package / name, writer.path(name))
            library = writer.path(manifest.program)
            toolchain.compile_library(writer.path(SOURCE), library, manifest.target.level)
            phase.note(f"{library.name}, {len(tiles)} linears with tiles of their own")
        with progress.phase("seal"):
            writer.write_bytes(TUNING_NAME, dump_tuning(tuning))
            writer.write_text(REPORT, report_page(manifest, tuning, manifest.model.name))
            writer.finish(manifest)
    return load_tuning(package)


def shapes_of(text: str, manifest: Manifest) -> list[Shape]:
    """The distinct linears that a model.cpp calls."""
    formats = {
        parse_format(weight.format).cpp_type: weight.format
        for weight in manifest.weights
        if weight.format != "raw"
    }
    limits: Limits = manifest.limits
    most = {"tokens": limits.max_num_batched_tokens, "rows": limits.max_num_seqs}
    shapes = [
        Shape(formats[kind], int(rows), int(columns), int(stripes or 1), most[domain])
        for kind, rows, columns, stripes, domain in LINEAR.findall(text)
    ]
    return list(dict.fromkeys(shapes))


def _checked_source(package: Path, manifest: Manifest) -> str:
    if manifest.target.kind != "cpu":
        raise PackageError(f"{package} is of target {manifest.target.kind}: only cpu's kernels can be timed")
    lacking = set(manifest.target.cpu_features) - toolchain.cpu_flags()
    if lacking:
        raise PackageError(f"{package} needs {', '.join(sorted(lacking))}, which this machine has not")
    for name in manifest.files:
        if not (package / name).is_file():
            raise PackageError(f"{package} lacks {name}: copy the package again, or compile the model again")
    for header in source_files():
        carried = package / "kernels" / header.name
        if not carried.is_file() or carried.read_bytes() != header.read_bytes():
            raise PackageError(
                f"{package} carries other kernels than pagedc {manifest.pagedc_version} here: "
                "compile the model again"
            )
    text = (package / SOURCE).read_text()
    if BEGIN not in text or END not in text.partition(BEGIN)[2]:
        raise PackageError(f"{package / SOURCE} is not as pagedc printed it: compile the model again")
    return text


def _share(source: Path, target: Path) -> None:
    """The same file under two names: weights are not copied, and both lie in one file system."""
    os.link(source, target)
