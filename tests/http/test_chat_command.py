"""`pagedc chat` with a server, its words piped in."""

import subprocess
import sys

import pytest
from tests.http.fake_engine import PANGRAM
from tests.http.server_process import ServerProcess
from tests.patience import PATIENCE


def chat(words: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    command = [sys.executable, "-m", "pagedc.runtime.cli", "chat", *options]
    return subprocess.run(command, input=words, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_conversation(server: ServerProcess) -> None:
    result = chat("hi\n\nagain\n/clear\nonce more\n/exit\nnever\n", server.url, "--max-tokens", "9")
    assert result.stdout == (PANGRAM[:9] + "\n") * 3
    assert (result.stderr, result.returncode) == ("", 0)


def test_options_reach_the_server(server: ServerProcess) -> None:
    result = chat(
        "hi\n", f"{server.url}/v1/", "--max-tokens", "4", "--seed", "4", "--model", "alias", "--system", "be"
    )
    assert result.stdout == PANGRAM[4:8] + "\n"


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        ("#die\n", (), "engine died"),
        ("hi\n", ("--model", "other"), "The model 'other' does not exist."),
        ("x" * 600 + "\n", (), "maximum context length"),
    ],
)
def test_what_the_server_says_is_said(
    server: ServerProcess, words: str, options: tuple[str, ...], said: str
) -> None:
    result = chat(words, server.url, *options)
    assert said in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert result.returncode == 1


def test_no_server() -> None:
    result = chat("hi\n", "http://127.0.0.1:1")
    assert result.returncode == 2
    assert "127.0.0.1:1" in result.stderr
