"""Limits of the machine, and what is asked of its kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path

from pagedc.runtime.bench.machine import compiled_peak, drop_page_cache, peak_memory, read_bandwidth


def test_bandwidth_is_a_rate() -> None:
    assert 1e7 < read_bandwidth(2, 1 << 22, passes=2) < 1e13


def test_the_peak_is_the_compiles_or_unknown(tmp_path: Path) -> None:
    assert compiled_peak(tmp_path, 2) is None
    (tmp_path / "tuning.json").write_text(json.dumps({"device": "x", "peak": None}))
    assert compiled_peak(tmp_path, 2) is None
    (tmp_path / "tuning.json").write_text(json.dumps({"device": "x", "peak": 8e9, "threads": 4}))
    assert compiled_peak(tmp_path, 2) == 4e9


def test_dropping_the_page_cache_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"x" * 100_000)
    drop_page_cache(tmp_path)
    assert (tmp_path / "sub" / "file").read_bytes() == b"x" * 100_000


def test_peak_memory_counts_children() -> None:
    child = "import sys; held = bytearray(60 << 20); print(flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        p.stdout.readline()
        assert 60 << 20 < peak_memory(p.pid) < 200 << 20
        assert p.stdin is not None
        p.stdin.close()
    assert peak_memory(os.getpid()) > 0
