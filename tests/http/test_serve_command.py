"""`pagedc serve` from its words to its exit code."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.http.server_process import ServerProcess
from tests.http.tokenizer_files import write_tokenizer
from tests.patience import PATIENCE
from tests.runtime.packages import make_package, seal

MOCK_SERVE = Path(__file__).with_name("mock_serve.py")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A sealed package with a tokenizer that works."""
    path = make_package(tmp_path / "tiny.pagedc")
    write_tokenizer(path / "tokenizer")
    (path / "tokenizer" / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "top_k": 7}))
    seal(path)
    return path


def test_serving_a_package(package: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-1\n")
    words = [
        "--port",
        "0",
        "--served-model-name",
        "tiny-1",
        "--served-model-name",
        "tiny-2",
        "--log-format",
        "json",
    ]
    command = [sys.executable, MOCK_SERVE, package, *words, "--api-key-file", keys, "--max-model-len", "48"]
    key = {"Authorization": "Bearer sk-1"}
    with ServerProcess(command) as server:
        server.wait_for_log("is ready in")
        models = server.ask("GET", "/v1/models", headers=key).json()["data"]
        assert [(model["id"], model["max_model_len"]) for model in models] == [("tiny-1", 48), ("tiny-2", 48)]
        body = {"model": "tiny-2", "prompt": [1, 2], "max_tokens": 4, "ignore_eos": True}
        answer = server.ask("POST", "/v1/completions", body, key)
        assert answer.json()["usage"]["completion_tokens"] == 4
        assert answer.json()["system_fingerprint"].startswith("fp_")
        assert server.ask("POST", "/v1/completions", body).status == 401
        text = server.ask("GET", "/metrics", headers=key).body.decode()
        for phase in ("imports", "check", "tokenizer", "engine", "package"):
            assert f'pagedc:boot_seconds{{model_name="tiny-1",phase="{phase}"}}' in text
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        lines = [json.loads(line) for line in server.log().splitlines()]
        assert all(line["level"] == "info" for line in lines)
        (line,) = [line for line in lines if "POST /v1/completions 200" in line["message"]]
        assert line["request_id"] == answer.json()["id"]


def test_a_port_that_is_taken(package: Path) -> None:
    with ServerProcess([sys.executable, MOCK_SERVE, package, "--port", "0"]) as server:
        command = [sys.executable, MOCK_SERVE, package, "--port", str(server.port)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert second.returncode == 2
        assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in second.stderr
        assert "Traceback" not in second.stderr


def test_a_package_that_was_changed(package: Path) -> None:
    (package / "tokenizer" / "chat_template.jinja").write_text("{{ 1 }}")
    command = [sys.executable, "-m", "pagedc.runtime.cli", "serve", package, "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 4
    assert "chat_template.jinja" in result.stderr
    assert "Traceback" not in result.stderr
