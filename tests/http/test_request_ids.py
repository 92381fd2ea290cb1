"""X-Request-Id: taken where it is one, given otherwise, and in the log."""

import pytest
from tests.http.server_process import ServerProcess


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere"])
def test_an_id_comes_back(server: ServerProcess, path: str) -> None:
    answer = server.ask("GET", path, headers={"X-Request-Id": "trace-1:a.b_c"})
    assert answer.headers["x-request-id"] == "trace-1:a.b_c"
    assert server.ask("GET", path).headers["x-request-id"].startswith("req-")


def test_an_answer_keeps_its_own_id(server: ServerProcess) -> None:
    body = {"model": "fake", "prompt": "hi", "max_tokens": 2}
    answer = server.ask("POST", "/v1/completions", body, {"X-Request-Id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    assert answer.json()["id"].startswith("cmpl-")
    answer = server.ask("POST", "/v1/completions", body)
    assert answer.headers["x-request-id"] == answer.json()["id"]


@pytest.mark.parametrize("value", ["", "a b", "x" * 129, "<script>", "a;b", "\xe9", "-a"])
def test_what_is_no_id_is_not_repeated(server: ServerProcess, value: str) -> None:
    answer = server.ask("GET", "/health", headers={"X-Request-Id": value})
    assert answer.headers["x-request-id"].startswith("req-")
