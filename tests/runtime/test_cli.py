"""What the commands take, refuse and print."""

import gc
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.packages import make_package

from pagedc.runtime.cli import main, make_parser
from pagedc.runtime.manifest import Target
from pagedc.runtime.serve import engine_options
from pagedc.runtime.share import Share


def parse(*words: str) -> Any:
    """Options of `pagedc serve PACKAGE …`."""
    return make_parser().parse_args(["serve", "package", *words])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 << 30),
        ("500MB", 500_000_000),
        ("1.5g", 1_500_000_000),
        ("2ki", 2048),
        ("123456", 123456),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse("--memory", text).memory == Share(size)


def test_shares_and_durations() -> None:
    assert parse("--memory", "8GiB:3:1.5").memory == Share(8 << 30, (3, 1.5))
    assert parse("--threads", "4:1:1").threads == Share(4, (1, 1))
    assert [parse("--idle-unload", text).idle_unload for text in ("90", "1.5s", "10m", "1h")] == [
        90,
        1.5,
        600,
        3600,
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["--memory", "8 apples"],
        ["--memory", "-1"],
        ["--memory", "0"],
        ["--memory", "8ib"],
        ["--memory", "9" * 400],
        ["--port", "70000"],
        ["--port", "http"],
        ["--port", "1" * 5000],
        ["--threads", "0"],
        ["--max-num-seqs", "1.5"],
        ["--max-waiting", "-1"],
        ["--drain-timeout", "nan"],
        ["--log-level", "loud"],
        ["--no-such-option"],
        ["--memory", "8GiB:"],
        ["--memory", "8GiB:0"],
        ["--threads", "2:a"],
        ["--idle-unload", "0"],
        ["--idle-unload", "10 min"],
    ],
)
def test_wrong_options_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "package", *words]) == 2
    captured = capsys.readouterr()
    assert words[0] in captured.err
    assert captured.err.count("\n") == 1


def test_options_reach_the_engine() -> None:
    words = ["--max-num-seqs", "3", "--max-num-batched-tokens", "4"]
    options = engine_options(parse(*words, "--max-model-len", "5", "--no-prefix-cache"))
    assert options.max_num_seqs == 3
    assert (options.max_num_batched_tokens, options.max_model_len, options.prefix_cache) == (4, 5, False)
    assert engine_options(parse()).prefix_cache


def test_garbage_is_collected_after_a_server_that_could_not_start(tmp_path: Path) -> None:
    assert main(["serve", str(tmp_path)]) == 4
    assert gc.isenabled()


@pytest.mark.parametrize("command", ["serve", "chat", "inspect"])
def test_what_is_no_package_cannot_be_opened(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pagedc.runtime.cli", command, tmp_path]
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert result.returncode == 4
    assert "manifest.json" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("content", [None, "", "# nothing\n\n", "two words\n"])
def test_a_key_file_without_keys(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    assert main(["serve", "package", "--api-key-file", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (Target("cpu", "riscv64", "native", [], ""), "compiled for riscv64, but this machine is"),
        (
            Target("cpu", platform.machine(), "x86-64-v9", ["avx9000"], ""),
            "compiled for x86-64-v9, but this CPU lacks avx9000",
        ),
        (Target("cuda", "sm_1", "sm_1", [], ""), "compiled for sm_1, "),
    ],
)
def test_inspect_of_a_package_for_another_machine(
    target: Target, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = make_package(tmp_path / "tiny.pagedc", target=target)
    assert main(["inspect", str(package)]) == 0
    text = capsys.readouterr().out
    assert "tiny (llama)" in text
    assert text.splitlines()[-1].startswith(f"this machine cannot serve it: {why}")
    assert main(["inspect", "--json", str(package)]) == 0
    assert json.loads(capsys.readouterr().out)["lacks"].startswith(why)


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = make_package(tmp_path / "tiny.pagedc")
    assert main(["inspect", str(package)]) == 0
    text = capsys.readouterr().out
    assert "tiny (llama)" in text
    assert "cannot serve" not in text
    assert "\x1b" not in text
    assert main(["inspect", "--json", str(package)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["manifest"]["model"]["name"] == "tiny"
    assert facts["kv_cache_bytes_per_token"] == 64
    assert facts["kv_cache_bytes_per_sequence"] == 8 * 1024
    assert facts["formats"] == {"f32": 68}
