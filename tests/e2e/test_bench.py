"""`pagedc bench` on a tiny package: what is counted, not how fast."""

import json
from pathlib import Path

import pytest

from pagedc.runtime.cli import main

pytestmark = pytest.mark.parametrize("tiny_package", ["bfloat16"], indirect=True)


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["bench", *words, "--json"]) == 0
    figures: dict[str, object] = json.loads(capsys.readouterr().out)
    return figures


def test_latency_of_each_length(tiny_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--input-len", "5", "40", "--output-len", "4", "--runs", "2", "--threads", "1"]
    figures = bench(capsys, "latency", str(tiny_package), *words)
    rows = figures["lengths"]
    assert isinstance(rows, list)
    assert [row["input_tokens"] for row in rows] == [5, 40]
    manifest = json.loads((tiny_package / "manifest.json").read_text())
    for row in rows:
        assert row["decode_tokens_per_second"] == pytest.approx(1 / row["tpot"]["median"])
        assert row["prefill_tokens_per_second"] == pytest.approx(row["input_tokens"] / row["ttft"]["median"])
        assert row["bytes_per_token"] > manifest["memory"]["weights_bytes"]
    assert main(["bench", "latency", str(tiny_package), *words]) == 0
    assert "batch of one, 1 threads" in capsys.readouterr().out


def test_throughput_counts_every_token(tiny_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--input-len", "5", "--output-len", "7", "--num-requests", "6", "--max-num-seqs", "3"]
    figures = bench(capsys, "throughput", str(tiny_package), *lengths, "--threads", "1")
    seconds = figures["seconds"]
    assert isinstance(seconds, float)
    assert figures["output_tokens_per_second"] == pytest.approx(42 / seconds)
    assert figures["total_tokens_per_second"] == pytest.approx(72 / seconds)
    assert isinstance(figures["steps"], int)
    assert figures["steps"] >= 14  # six requests, three at a time


def test_startup_cold_and_warm(tiny_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench(capsys, "startup", str(tiny_package), "--runs", "1", "--threads", "1")
    assert figures["python_seconds"] > 0
    assert figures["weights_seconds"] > 0
    for kind in ("cold", "warm"):
        row = figures[kind]
        assert isinstance(row, dict)
        assert 0 < row["ready"]["median"] < row["first_token"]["median"]
        assert row["peak_memory"]["median"] > 1 << 20


def test_what_does_not_fit_is_one_line(tiny_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "latency", str(tiny_package), "--input-len", "250", "--output-len", "99"]) == 2
    assert "exceed max_model_len, 256" in capsys.readouterr().err
