"""pagedc beside its peers: the same weights, threads and prompts, every program in turn in one window.

    python -m benchmarks.peers --models DIR --llama-bench … --llama-server … --python-openvino … [--rounds N]

A round runs each program once for each figure; a machine drifts, so only the ratios of one round count, and
the table shows their medians. A probe of read bandwidth stands before and after each run. Every run is kept
in --state as it ends: started again, the script goes on where it was.

DIR holds, for MODEL = smollm2 and llama-1b, whichever of these there are:
  MODEL-{bf16,int8,int4}.pagedc   packages       MODEL-{q4_0,q4_1}.pagedc   of llama.cpp's files
  MODEL-{bf16,q8_0,q4_0,q4_1}.gguf               MODEL-ov-{fp16,int8,int4}/   OpenVINO
  MODEL-ort-int4/   ONNX Runtime GenAI           MODEL-bf16/   a Hugging Face directory
Programs are given as options, or as PAGEDC_LLAMA_BENCH, PAGEDC_LLAMA_SERVER, PAGEDC_PYTHON_OPENVINO,
PAGEDC_PYTHON_ONNXRUNTIME, PAGEDC_PYTHON_TRANSFORMERS; those that are not there are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from benchmarks.bandwidth import read_bandwidth
from benchmarks.bytecode import write_bytecode
from benchmarks.peer_programs import RunError, Sizes, Tools, is_here, measure

FIGURES = {
    "decode": "decode, batch 1, tokens/s",
    "prefill": "prefill, tokens/s",
    "streams": "concurrent streams, output tokens/s",
    "first_token": "process start to first token, s",
}
OTHER = "llama.cpp Q4_0"
COLUMNS = ("pagedc", "llama.cpp", OTHER, "OpenVINO", "ONNX Runtime", "transformers")
README = Path("README.md")
BEGIN, END = "<!-- peers: written by benchmarks/peers.py -->", "<!-- peers end -->"
LIBRARIES = {
    "openvino": ("openvino", "openvino-genai"),
    "onnxruntime": ("onnxruntime", "onnxruntime-genai"),
    "transformers": ("transformers", "torch"),
}


class Entry(NamedTuple):
    """One program with one file of weights."""

    program: str
    label: str
    file: str  # under --models; {} = the model


# What is compared with what; the first of a group is ours, which the ratios are of.
GROUPS: dict[str, tuple[Entry, ...]] = {
    "bfloat16": (
        Entry("pagedc", "pagedc bf16", "{}-bf16.pagedc"),
        Entry("llama.cpp", "llama.cpp BF16", "{}-bf16.gguf"),
        Entry("openvino", "OpenVINO FP16", "{}-ov-fp16"),
        Entry("transformers", "transformers bf16", "{}-bf16"),
    ),
    "int8": (
        Entry("pagedc", "pagedc int8", "{}-int8.pagedc"),
        Entry("llama.cpp", "llama.cpp Q8_0", "{}-q8_0.gguf"),
        Entry("openvino", "OpenVINO INT8", "{}-ov-int8"),
    ),
    "int4": (
        Entry("pagedc", "pagedc int4", "{}-int4.pagedc"),
        Entry("llama.cpp", "llama.cpp Q4_0", "{}-q4_0.gguf"),
        Entry("openvino", "OpenVINO INT4", "{}-ov-int4"),
        Entry("onnxruntime", "ONNX Runtime int4", "{}-ort-int4"),
    ),
    "Q4_1": (
        Entry("pagedc", "pagedc Q4_1", "{}-q4_1.pagedc"),
        Entry("llama.cpp", "llama.cpp Q4_1", "{}-q4_1.gguf"),
        Entry("llama.cpp", "llama.cpp Q4_0", "{}-q4_0.gguf"),
        Entry("openvino", "OpenVINO INT4", "{}-ov-int4"),
        Entry("onnxruntime", "ONNX Runtime int4", "{}-ort-int4"),
    ),
    "Q4_0": (
        Entry("pagedc", "pagedc Q4_0", "{}-q4_0.pagedc"),
        Entry("llama.cpp", "llama.cpp Q4_0", "{}-q4_0.gguf"),
        Entry("openvino", "OpenVINO INT4", "{}-ov-int4"),
        Entry("onnxruntime", "ONNX Runtime int4", "{}-ort-int4"),
    ),
}


class Case(NamedTuple):
    """What one group of runs is about."""

    model: str
    figure: str
    weights: str


def main() -> None:
    """Measure, write the results and the README's table."""
    options = _options()
    tools = _tools(options)
    write_bytecode()
    sizes = Sizes(
        options.threads,
        options.prefill,
        options.decode,
        options.streams,
        options.stream_input,
        options.stream_output,
    )
    runs = (
        [json.loads(line) for line in options.state.read_text().splitlines()]
        if options.state.exists()
        else []
    )
    done = {_key(run) for run in runs}
    options.state.parent.mkdir(parents=True, exist_ok=True)
    for number in range(options.rounds):
        for case, entries in _cases(options, tools):
            for entry in entries:
                run: dict[str, Any] = {"round": number, **case._asdict(), "label": entry.label}
                if _key(run) in done:
                    continue
                run |= _measure(case, entry, options, tools, sizes)
                runs.append(run)
                with options.state.open("a") as file:
                    file.write(json.dumps(run) + "\n")
                said = run.get("error") or f"{run['value']:.2f}, {run['read_bandwidth'] / 1e9:.1f} GB/s"
                print(
                    f"{number} {case.model} {case.figure} {case.weights}: {entry.label}: {said}", flush=True
                )
    rows = summarise(runs)
    figures = {
        "sizes": {name: getattr(sizes, name) for name in Sizes.__slots__},
        "peers": peer_versions(tools),
        "rows": rows,
        "runs": runs,
    }
    if not options.dry:
        record.write("cpu-peers", figures)
        rewrite(README, table(rows))
    print(table(rows))


def _measure(
    case: Case, entry: Entry, options: argparse.Namespace, tools: Tools, sizes: Sizes
) -> dict[str, Any]:
    path = options.models / entry.file.format(case.model)
    before = _read_bandwidth(sizes)
    try:
        if case.figure == "first_token":
            # Once unmeasured: its files, libraries too, are in the page cache.
            measure(entry.program, case.figure, path, tools, sizes, options.timeout)
        elif case.figure == "decode":
            # The memory is what is waited for: weights lie in pages as their program reads them.
            forget_cached(path)
        found = measure(entry.program, case.figure, path, tools, sizes, options.timeout)
    except Exception as error:  # one program that fails must not end the hours of the others
        kind = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
        return {"read_bandwidth": before, "error": f"{kind}{error}"}
    # The better of two: a neighbour that takes some of the memory's time is seen in one of them.
    found["read_bandwidth"] = max(before, _read_bandwidth(sizes))
    if case.figure == "decode":
        found["share_of_bandwidth"] = found["value"] * weights_bytes(path) / found["read_bandwidth"]
    return found


def _read_bandwidth(sizes: Sizes) -> float:
    return statistics.median(read_bandwidth(sizes.threads, passes=5))


def _cases(options: argparse.Namespace, tools: Tools) -> Iterator[tuple[Case, list[Entry]]]:
    """Those of which our package and at least one peer are here."""
    for model in options.only_models:
        for figure in options.figures:
            for weights in options.weights:
                entries = [
                    entry
                    for entry in GROUPS[weights]
                    if (options.models / entry.file.format(model)).exists()
                    and is_here(entry.program, figure, tools)
                    and entry.program in options.programs
                ]
                if len(entries) > 1 and entries[0].program == "pagedc":
                    yield Case(model, figure, weights), entries


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[name] for name in ("round", "model", "figure", "weights", "label"))


def weights_bytes(path: Path) -> int:
    """What a decoded token reads: a package's weights by its manifest, else the largest file."""
    if path.suffix == ".pagedc":
        manifest = json.loads((path / "manifest.json").read_text())
        return int(manifest["memory"]["weights_bytes"])
    return max(
        file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()
    )


def forget_cached(path: Path) -> None:
    """Have the kernel drop a file's pages, or those of a directory's files, from its cache."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what is not on the disk yet would stay
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each program of each case: medians over the rounds, and of the ratios of paired runs."""
    cases: dict[tuple[str, ...], dict[str, dict[int, dict[str, Any]]]] = {}
    for run in runs:
        case = tuple(run[name] for name in Case._fields)
        cases.setdefault(case, {}).setdefault(run["label"], {})[run["round"]] = run
    rows = []
    for case, labels in cases.items():
        ours = next(iter(labels.values()))
        for label, by_round in labels.items():
            good = {number: run for number, run in by_round.items() if "error" not in run}
            pairs = [n for n in good if n in ours and "error" not in ours[n] and by_round is not ours]
            row: dict[str, Any] = {**dict(zip(Case._fields, case, strict=True)), "label": label}
            for name in ("value", "peak_memory", "share_of_bandwidth", "read_bandwidth"):
                values = [run[name] for run in good.values() if name in run]
                row[name] = statistics.median(values) if values else None
            ratios = [ours[n]["value"] / good[n]["value"] for n in pairs]
            row["rounds"] = len(good)
            row["ratio"] = statistics.median(ratios) if ratios else None
            row["ratio_range"] = [min(ratios), max(ratios)] if ratios else None
            row["error"] = next((run["error"] for run in by_round.values() if "error" in run), None)
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line a case: what each program reached, and how many times that pagedc did."""
    cases: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        case = tuple(row[name] for name in Case._fields)
        cases.setdefault(case, {})[_column(row)] = row
    columns = [column for column in COLUMNS if any(column in found for found in cases.values())]
    lines = [f"| | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for (model, figure, weights), found in cases.items():
        cells = [_cell(found[column]) if column in found else "" for column in columns]
        lines.append(f"| {model}, {weights}: {FIGURES[figure]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _column(row: dict[str, Any]) -> str:
    """Of a group with two formats of llama.cpp's, the one that is not ours has a column of its own."""
    other = row["weights"] == "Q4_1" and row["label"] == "llama.cpp Q4_0"
    return next(
        name for name in reversed(COLUMNS) if row["label"].startswith(name) and (other or name != OTHER)
    )


def _cell(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "failed"
    value = f"{row['value']:.2f}" if row["figure"] == "first_token" else f"{row['value']:.0f}"
    return value if row["ratio"] is None else f"{value} (**{row['ratio']:.2f}**)"


def rewrite(path: Path, text: str) -> None:
    """Put the table between its markers; a file without them is left as it is."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"{path} has no {BEGIN}: its table is not rewritten", file=sys.stderr)
        return
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def peer_versions(tools: Tools) -> dict[str, str]:
    """Of every program that was found."""
    found = {}
    if binary := tools.llama_bench:
        done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        found["llama.cpp"] = next((line for line in lines if "version" in line), "")
    for program, libraries in LIBRARIES.items():
        if program in tools.pythons:
            names = f"n + ' ' + m.version(n) for n in {libraries!r}"
            code = f"import importlib.metadata as m; print(', '.join({names}))"
            command = [str(tools.pythons[program]), "-c", code]
            found[program] = subprocess.run(
                command, capture_output=True, text=True, check=False
            ).stdout.strip()
    return found


def _tools(options: argparse.Namespace) -> Tools:
    pythons = {"pagedc": Path(sys.executable)}
    for program in LIBRARIES:
        if (path := getattr(options, f"python_{program}")) is not None:
            pythons[program] = path
    for path in (options.llama_bench, options.llama_server, *pythons.values()):
        if path is not None and not os.access(path, os.X_OK):
            sys.exit(f"{path} is no program that can be run")
    return Tools(options.llama_bench, options.llama_server, pythons)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", type=Path, required=True, metavar="DIR")
    names = ("llama-bench", "llama-server", *(f"python-{program}" for program in LIBRARIES))
    for name in names:
        given = os.environ.get("PAGEDC_" + name.upper().replace("-", "_"))
        add(f"--{name}", type=Path, default=given, metavar="PATH")
    add("--only-models", nargs="+", default=["smollm2", "llama-1b"], metavar="MODEL")
    add("--figures", nargs="+", choices=FIGURES, default=list(FIGURES))
    add("--weights", nargs="+", choices=GROUPS, default=list(GROUPS))
    programs = ["pagedc", "llama.cpp", *LIBRARIES]
    add("--programs", nargs="+", choices=programs, default=programs)
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=2)
    for name, default in (
        ("prefill", 1024),
        ("decode", 128),
        ("streams", 16),
        ("stream-input", 128),
        ("stream-output", 128),
    ):
        add(f"--{name}", type=int, default=default, metavar="N")
    add("--timeout", type=float, default=600, metavar="S", help="of one run")
    add("--state", type=Path, default=Path("build/benchmarks/peers.jsonl"), help="every run, as it ends")
    add("--dry", action="store_true", help="print the table, write neither results nor README")
    options = parser.parse_args()
    if "pagedc" not in options.programs:
        options.programs.append("pagedc")
    return options


if __name__ == "__main__":
    main()
