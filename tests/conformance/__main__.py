"""`python -m tests.conformance [TYPE…]`: check every model type, each in a process of its own.

Results are kept in build/conformance.json as they come, with a hash of the code that they hold for: a run
that was interrupted goes on where it was, and one after a change begins again. docs/conformance.md is written
when every type has a result; with --page at once, and says which have none.
"""

import argparse
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.conformance.matrix import write_matrix

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "conformance.json"
WORK = ROOT / "build" / "conformance"
PAGE = ROOT / "docs" / "conformance.md"
SOURCES = ("compiler", "kernels", "templates", "runtime", "tests/conformance")
LIMIT = 300.0  # seconds of a type

Result = dict[str, Any]


def main() -> int:
    """Returns 0 where every type matched or was refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("types", nargs="*", help="only these, whatever is known of them")
    parser.add_argument("-j", type=int, default=len(os.sched_getaffinity(0)), help="types at once")
    parser.add_argument(
        "--keep-going", action="store_true", help="keep results of other versions of the code"
    )
    parser.add_argument(
        "--again", nargs="*", default=[], metavar="STATUS", help="check these again: refused …"
    )
    parser.add_argument("--page", action="store_true", help="check nothing: write the page of what is known")
    options = parser.parse_args()
    results = _load(options.keep_going)
    names = options.types or [
        n for n in types() if results.get(n, {}).get("status") in (None, *options.again)
    ]
    _run_all([] if options.page else names, options.j, results)
    for name in options.types or ():
        print(f"{name}: {results[name]['status']} {results[name]['error'] or ''} {results[name]['detail']}")
    missing = set(types()) - set(results)
    if not missing or options.page:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(write_matrix(results, importlib.metadata.version("transformers"), missing))
        print(f"{PAGE.relative_to(ROOT)}: {_counts(results)}")
    return int(any(found["status"] in ("wrong", "failed", "timeout") for found in results.values()))


def types() -> list[str]:
    """The keys of the installed transformers' causal-LM mapping."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _code() -> str:
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".h", ".jinja"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _load(any_code: bool) -> dict[str, Result]:
    if not RESULTS.exists():
        return {}
    stored: dict[str, Result] = json.loads(RESULTS.read_text())
    code = _code()
    return {name: found for name, found in stored.items() if any_code or found["code"] == code}


def _save(results: dict[str, Result]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1, sort_keys=True))
    temporary.rename(RESULTS)


def _counts(results: dict[str, Result]) -> str:
    found = [result["status"] for result in results.values()]
    return ", ".join(f"{found.count(status)} {status}" for status in sorted(set(found)))


def _run_all(names: list[str], num_workers: int, results: dict[str, Result]) -> None:
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    # The server imports torch and transformers once; each type is a fork of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.conformance.worker"])
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), disable=not sys.stdout.isatty()) as bars:
        bar = bars.add_task("conformance", total=len(names))
        waiting, running, code = list(names), dict[BaseProcess, tuple[str, float]](), _code()
        while waiting or running:
            while waiting and len(running) < num_workers:
                running_process = _start(context, waiting[0])
                running[running_process] = (waiting.pop(0), time.monotonic())
            wait([process.sentinel for process in running], timeout=1)
            for process, (name, begin) in list(running.items()):
                seconds = time.monotonic() - begin
                if process.exitcode is None and seconds < LIMIT:
                    continue
                results[name] = {**_collect(process, name), "seconds": round(seconds, 1), "code": code}
                _save(results)
                del running[process]
                bars.update(bar, advance=1, description=_counts(results))
                if not sys.stdout.isatty():
                    found = results[name]
                    print(f"{name}: {found['status']} ({found['seconds']} s) {found['detail']}", flush=True)


def _start(context: Any, name: str) -> BaseProcess:
    from tests.conformance.worker import work

    directory = WORK / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    process: BaseProcess = context.Process(target=work, args=(name, directory))
    process.start()
    return process


def _collect(process: BaseProcess, name: str) -> Result:
    """The worker's result, or what became of it; its children end with it."""
    directory = WORK / name
    found: Result = {
        "status": "timeout",
        "detail": f"longer than {LIMIT:.0f} s",
        "error": None,
        "features": [],
    }
    if process.exitcode is None and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
    elif process.exitcode != 0:
        found |= {"status": "failed", "detail": f"the process ended with {process.exitcode}"}
    process.join()
    result = directory / "result.json"
    if result.exists():
        found |= json.loads(result.read_text())
    found.setdefault("kind", "decoder")
    shutil.rmtree(directory, ignore_errors=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
