"""`pagedc bench serve` against a real server."""

import json
from pathlib import Path

import pytest
from tests.http.fake_server import WEIGHTS_BYTES
from tests.http.server_process import ServerProcess
from tests.patience import PATIENCE

from pagedc.runtime.cli import main

SHORT = ["--input-len", "3:9", "--output-len", "4", "--num-requests", "6", "--max-token-id", "200"]


def test_every_request_is_counted(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    slo = ["--slo", f"ttft:{1000 * PATIENCE}", f"tpot:{1000 * PATIENCE}"]
    server.wait_for_metric("num_requests_running", 0)  # else another test's steps are counted
    assert main(["bench", "serve", server.url, *SHORT, "--concurrency", "1", "3", *slo, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["model"] == "fake"
    assert [row["concurrency"] for row in figures["loads"]] == [1, 3]
    for row in figures["loads"]:
        assert (row["requests"], row["failed"], row["output_tokens"]) == (6, 0, 24)
        assert row["goodput"] == row["requests_per_second"]
        assert row["ttft"]["median"] <= row["e2el"]["p99"]
        assert row["steps"] == 24
        assert row["bytes_read"] == 24 * WEIGHTS_BYTES
        limit = row["read_bandwidth"]
        assert row["share_of_bandwidth"] == row["bytes_read"] / row["seconds"] / limit > 0


def test_a_rate_prints_a_table_and_draws(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "load.png"
    words = ["--rate", "200", "400", "--burstiness", "0.5", "--plot", str(picture), "--chat"]
    assert main(["bench", "serve", server.url, *SHORT, *words]) == 0
    printed = capsys.readouterr().out
    assert "200 requests/s: " in printed
    assert "GB/s, one pass a step" in printed
    assert "TTFT" in printed
    assert "failed" not in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["http://127.0.0.1:9"], 1, "no answer from 127.0.0.1:9"),
        (["ftp://x"], 2, "'ftp://x' is not the address of a server"),
        (["http://127.0.0.1:9", "--slo", "fast:1"], 2, "'fast:1' is not an objective"),
        (["http://127.0.0.1:9", "--input-len", "0"], 2, "'0' is not a range"),
        (["http://127.0.0.1:9", "--model", "m", "--warmup", "0"], 1, "every request failed"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    words: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", *words]) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert why in last
