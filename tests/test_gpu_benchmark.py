"""benchmarks.gpu where there is no GPU: what becomes of parts that fail, and which figure each floor is."""

import fcntl
import sys
import time
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE

from benchmarks.gpu_floors import FLOORS, LARGE, SMALL, measured
from benchmarks.gpu_parts import Budget, Part, run_json

LIMITS = {"copy_bytes_per_s": 4e12, "matmul_flops_per_s": 8e14}


def engine(seconds: float) -> dict[str, Any]:
    decode = {"what": "decode 1 x 1024", "step_s": seconds, "bytes": 16e9}
    prefill = {"what": "prefill 4096", "step_s": 10 * seconds, "flops": 6e13}
    return {"first_token_s": 2.0, "compilers_imported": 0, "rows": [decode, prefill]}


def test_each_floor_is_a_figure_that_the_parts_give() -> None:
    theirs = {"decode_step_s": 0.02, "prefill_s": 0.1}
    figures = {
        "limits": LIMITS,
        "kernels": {"attention_decode_64x8192": {"seconds": 6e-4, "bytes": 2e9}},
        SMALL: {"engine": engine(0.01), "transformers": theirs},
        LARGE: {"engine": engine(0.01), "tuned": engine(0.005), "transformers": theirs},
    }
    rows = measured(figures)
    assert len(rows) == len(FLOORS) == 11
    values = [(row["value"], row["reached"]) for row in rows]
    # bandwidth of 8B (the tuned package is faster), 1B, attention alone; matmul; four ratios; boots; imports
    assert values == [
        (80.0, True), (40.0, False), (83.333, True), (150.0, True),
        (2.0, True), (1.0, False), (4.0, True), (2.0, True),
        (2.0, True), (2.0, True), (0, True),
    ]  # fmt: skip


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    figures = {"limits": {"failed": "no GPU"}, SMALL: {"engine": {"left_out": "3 s left"}}}
    assert {(row["value"], row["reached"]) for row in measured(figures)} == {(None, None)}
    assert {row["value"] for row in measured({})} == {None}


def module(directory: Path, text: str) -> list[str]:
    (directory / "part.py").write_text(text)
    return [sys.executable, str(directory / "part.py")]


def test_a_part_that_fails_leaves_why(tmp_path: Path) -> None:
    command = module(tmp_path, "print('before'); raise SystemExit('it broke')")
    done = Part(command, tmp_path / "log").result(PATIENCE)
    assert (done["exit_code"], done["failed"]) == (1, "before | it broke")


def test_a_part_ends_with_its_time_and_its_children_too(tmp_path: Path) -> None:
    lock = tmp_path / "lock"  # held while the child lives
    child = f"import fcntl, time; file = open({str(lock)!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX)"
    child += "; file.write('held'); file.flush(); time.sleep(600)"
    text = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    part = Part(module(tmp_path, text), tmp_path / "log")
    end = time.monotonic() + PATIENCE
    while not lock.exists() or not lock.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    done = part.result(0.1)
    assert (done["exit_code"], done["failed"]) == (None, "its time ended")
    with lock.open() as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < end
                time.sleep(0.01)


def test_a_part_without_time_is_left_out_and_one_without_json_says_so(tmp_path: Path) -> None:
    assert "left_out" in run_json("this", [], Budget(1), tmp_path / "log", least=5)
    found = run_json("this", [], Budget(PATIENCE), tmp_path / "log", least=5)
    assert "it printed no JSON" in found["failed"]
    assert found["exit_code"] == 0
    found = run_json("json.nothing", [], Budget(PATIENCE), tmp_path / "log", least=5)
    assert "json.nothing" in found["failed"]
