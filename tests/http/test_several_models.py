"""Several packages behind one server: routing by name, aliases, sleep."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.http.server_process import Answer, ServerProcess
from tests.http.tokenizer_files import write_tokenizer
from tests.patience import PATIENCE
from tests.runtime.mock_engine import HOLD, SLOW
from tests.runtime.packages import make_package, seal

MOCK_SERVE = Path(__file__).with_name("mock_serve.py")


def serve(*words: str | Path) -> ServerProcess:
    """`pagedc serve` over the mock executor."""
    return ServerProcess([sys.executable, MOCK_SERVE, *words, "--port", "0"])


def complete(server: ServerProcess, model: str, num_tokens: int = 3) -> Answer:
    """A short completion."""
    body = {"model": model, "prompt": [1, 2], "max_tokens": num_tokens, "ignore_eos": True}
    return server.ask("POST", "/v1/completions", body)


@pytest.fixture
def packages(tmp_path: Path) -> list[Path]:
    """Two packages of one model."""
    paths = [make_package(tmp_path / name) for name in ("red.pagedc", "blue.pagedc")]
    for path in paths:
        write_tokenizer(path / "tokenizer")
        seal(path)
    return paths


def test_requests_go_where_their_model_is(packages: list[Path]) -> None:
    names = ("red=crimson", "blue=azure", "blue.pagedc=sky")
    words = [word for name in names for word in ("--served-model-name", name)]
    with serve(*packages, *words, "--memory", "1MB:2:1") as server:
        server.wait_for_log("is ready in")
        models = server.ask("GET", "/v1/models").json()["data"]
        assert [(model["id"], model["root"], model["status"]) for model in models] == [
            ("crimson", "crimson", "ready"),
            ("azure", "azure", "ready"),
            ("sky", "azure", "ready"),
        ]
        for name in ("crimson", "azure", "sky"):
            answer = complete(server, name)
            assert answer.status == 200
            assert answer.json()["model"] == name
            assert server.ask("GET", f"/v1/models/{name}").json()["id"] == name
        assert complete(server, "tiny").error["code"] == "model_not_found"
        assert complete(server, "tiny").status == 404
        assert server.ask("POST", "/tokenize", {"prompt": "hi"}).status == 404
        assert server.ask("POST", "/tokenize", {"prompt": "hi", "model": "sky"}).json()["count"] == 2
        text = server.ask("GET", "/metrics").body.decode()
        for name, count in (("crimson", 3), ("azure", 6)):
            assert f'pagedc:generation_tokens_total{{model_name="{name}"}} {count}.0' in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "two packages would be called tiny"),
        (("--served-model-name", "green=x"), "MODEL the name of one of them"),
        (("--served-model-name", "tiny=x"), "MODEL the name of one of them"),
        (("--served-model-name", "x"), "MODEL the name of one of them"),
        (("--memory", "1kB"), "too few for 2 packages"),
        (("--threads", "2:1:1:1"), "3 weights for 2 packages"),
    ],
)
def test_what_cannot_be_shared_out(packages: list[Path], words: tuple[str, ...], message: str) -> None:
    command = [sys.executable, MOCK_SERVE, *packages, "--port", "0", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_idle_model_sleeps_and_the_next_requests_wake_it_once(packages: list[Path]) -> None:
    with serve(packages[0], "--idle-unload", "1.5") as server:
        server.wait_for_log("sleeps after")
        assert server.ask("GET", "/v1/models").json()["data"][0]["status"] == "asleep"
        assert server.ask("GET", "/ready").status == 200
        hold = packages[0] / HOLD  # none ends before all are there, or it might sleep again between two
        hold.touch()
        body = {"model": "tiny", "prompt": [SLOW], "max_tokens": 9, "ignore_eos": True}
        answers: list[Answer] = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.ask("POST", "/v1/completions", body)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        server.wait_for_metric("num_http_requests", 8)
        hold.unlink()
        for thread in threads:
            thread.join(PATIENCE)
        assert [answer.status for answer in answers] == [200] * 8
        assert len(re.findall("has an engine after", server.log())) == 2
