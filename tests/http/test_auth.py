"""Keys: every route but /health and /ready asks for one."""

from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from tests.http.server_process import CHAT, ServerProcess, fake_server

KEY = "sk-0123456789"
ROUTES = (
    "/v1/models",
    "/v1/models/fake",
    "/metrics",
    "/version",
    "/nowhere",
    "/web/stats",
    "/web/report",
    "//",
    "/web/",
    "/web/../v1/models",
    "//health",
    "/health/",
    "/v1/../health",
)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys and a comment."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# of the team\n\n{KEY}\nsk-other\n")
    return path


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path, key_file: Path):  # type: ignore[no-untyped-def]
    """A server that asks for a key."""
    with fake_server(tokenizer_dir, {"key_file": str(key_file)}) as process:
        yield process


@pytest.mark.parametrize("path", ROUTES)
def test_routes_need_a_key(locked: ServerProcess, path: str) -> None:
    answer = locked.ask("GET", path)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/nowhere"]
)
def test_posts_need_a_key_before_anything_is_read(locked: ServerProcess, path: str) -> None:
    for body in (CHAT, b"not JSON", b"x" * (5 << 20)):
        assert locked.ask("POST", path, body).status == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/health?x=1", "/", "/web/app.js"])
def test_probes_need_none(locked: ServerProcess, path: str) -> None:
    assert locked.ask("GET", path).status == 200


@pytest.mark.parametrize(
    "value",
    [
        "", "Bearer", "Bearer ", "Bearer wrong", "Bearer \xe9", KEY, f"Basic {KEY}", f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}", f"Bearer {KEY.upper()}", f"Bearer {KEY} {KEY}", f"Bearer {KEY}, Bearer {KEY}",
    ],
)  # fmt: skip
def test_wrong_keys(locked: ServerProcess, value: str) -> None:
    answer = locked.ask("GET", "/v1/models", headers={"Authorization": value})
    assert answer.status == 401
    assert KEY not in answer.body.decode()


def test_two_headers_are_refused(locked: ServerProcess) -> None:
    header = f"Authorization: Bearer {KEY}\r\n".encode()
    request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert locked.raw(request + header + header + b"\r\n").startswith(b"HTTP/1.1 401 ")
    assert locked.raw(request + header + b"\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer {KEY}", "Bearer sk-other"])
def test_right_keys(locked: ServerProcess, value: str) -> None:
    assert locked.ask("GET", "/v1/models", headers={"authorization": value}).status == 200


def test_the_client_and_the_log(locked: ServerProcess) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=KEY, max_retries=0) as client:
        assert client.models.list().data
    stranger = openai.OpenAI(base_url=f"{locked.url}/v1", api_key="sk-guess", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    log = locked.log()
    assert KEY not in log
    assert "sk-guess" not in log
    assert "GET /v1/models 401" in log


def test_another_origin_may_ask_where_it_was_named(
    start_server: Callable[..., ServerProcess], key_file: Path
) -> None:
    server = start_server(key_file=str(key_file), allow_origin="https://example.org")
    answer = server.ask("OPTIONS", "/v1/chat/completions")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    assert server.ask("GET", "/v1/models").status == 401
