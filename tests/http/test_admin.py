"""/admin/models: loading and unloading beside running requests."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.http.server_process import Answer, ServerProcess, events
from tests.http.test_lifecycle import in_background
from tests.http.test_several_models import MOCK_SERVE, complete
from tests.http.tokenizer_files import write_tokenizer
from tests.patience import PATIENCE
from tests.runtime.mock_engine import HOLD, SLOW
from tests.runtime.packages import make_package, seal

ADMIN = {"Authorization": "Bearer sk-admin"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two packages of one model."""
    directory = tmp_path_factory.mktemp("packages")
    paths = [make_package(directory / name) for name in ("red", "blue", "unreadable")]
    for path in paths:
        write_tokenizer(path / "tokenizer")
        seal(path)
    return paths


@pytest.fixture(scope="module")
def server(packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the first package whose admin has a key."""
    keys = tmp_path_factory.mktemp("keys") / "admin"
    keys.write_text("sk-admin\n")
    words = [packages[0], "--served-model-name", "red", "--admin-key-file", keys, "--port", "0"]
    with ServerProcess([sys.executable, MOCK_SERVE, *words]) as process:
        process.wait_for_log("is ready in")
        yield process


def load(server: ServerProcess, **body: Any) -> Answer:
    """POST /admin/models."""
    return server.ask("POST", "/admin/models", body, ADMIN)


def names(server: ServerProcess) -> list[str]:
    """Who is served."""
    return [model["id"] for model in server.ask("GET", "/v1/models").json()["data"]]


def test_a_package_is_loaded_and_unloaded(server: ServerProcess, packages: list[Path]) -> None:
    answer = load(server, package=str(packages[1]), names=["blue", "azure"], memory=10**6, threads=1)
    assert answer.status == 201
    assert answer.json()["status"] == "ready"
    assert names(server) == ["red", "blue", "azure"]
    assert complete(server, "azure").status == 200
    assert server.ask("GET", "/admin/models", headers=ADMIN).json()["data"][1]["id"] == "blue"
    hold = packages[1] / HOLD
    hold.touch()
    body = {"model": "blue", "prompt": [SLOW], "max_tokens": 40, "ignore_eos": True, "stream": True}
    running = in_background(lambda: server.ask("POST", "/v1/completions", body))
    server.wait_for_log("POST /admin/models 201")
    end = time.monotonic() + PATIENCE
    while 'num_http_requests{model_name="blue"} 1' not in server.ask("GET", "/metrics").body.decode():
        assert time.monotonic() < end
    leaving = in_background(lambda: server.ask("DELETE", "/admin/models/azure", headers=ADMIN))
    while names(server) != ["red"]:
        assert time.monotonic() < end
    hold.unlink()
    assert leaving().json() == {"id": "azure", "object": "model", "deleted": True}
    assert events(running().body)[-1]["choices"][0]["finish_reason"] == "length"
    assert complete(server, "blue").status == 404
    assert complete(server, "red").status == 200
    assert server.ask("DELETE", "/admin/models/blue", headers=ADMIN).status == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"package": "/nowhere"}, "cannot_load"),
        ({"package": "a\0b"}, "cannot_load"),
        ({"package": ""}, "invalid_type"),
        ({"package": 5}, "invalid_type"),
        ({}, "missing_required_parameter"),
        ({"package": "x", "key": 1}, "unknown_parameter"),
        ({"package": "x", "threads": 0}, "invalid_type"),
    ],
)
def test_what_cannot_be_loaded(server: ServerProcess, body: dict[str, Any], code: str) -> None:
    answer = load(server, **body)
    assert answer.status == 400
    assert answer.error["code"] == code


def test_what_does_not_start_leaves_the_others(server: ServerProcess, packages: list[Path]) -> None:
    assert load(server, package=str(packages[1]), names=["red"]).error["code"] == "name_taken"
    answer = load(server, package=str(packages[2]))  # its engine says so
    assert answer.status == 400
    assert "unreadable" in answer.error["message"]
    assert names(server) == ["red"]


def test_only_the_admin_may(server: ServerProcess, packages: list[Path]) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-other"}):
        for method, path in (
            ("GET", "/admin/models"),
            ("POST", "/admin/models"),
            ("DELETE", "/admin/models/red"),
        ):
            assert server.ask(method, path, {}, headers).status == 401
    assert server.ask("PUT", "/admin/models", {}, ADMIN).status == 405
    with ServerProcess([sys.executable, MOCK_SERVE, packages[0], "--port", "0"]) as other:
        assert other.ask("GET", "/admin/models", headers=ADMIN).error["code"] == "unknown_url"
