"""Broken and hostile input: a 4xx in the one error body or a closed connection; the others are served on."""

import gzip
import json
import time

import pytest
from tests.http.server_process import JSON, ServerProcess, read_all
from tests.patience import PATIENCE

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

BODIES = {
    "empty": b"",
    "no JSON": b"hello",
    "another type": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "cut short": b'{"model": "fake", "prompt": "x"',
    "trailing": b'{"model": "fake", "prompt": "x"} {}',
    "deep": b'{"model": "fake", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep in a known field": b'{"model":"fake","messages":[],"tools":'
    + b'{"a":' * 100_000
    + b"1"
    + b"}" * 100_001,
    "NaN": b'{"model": "fake", "prompt": "x", "temperature": NaN}',
    "Infinity": b'{"model": "fake", "prompt": "x", "temperature": Infinity}',
    "1e999": b'{"model": "fake", "prompt": "x", "temperature": 1e999}',
    "many digits": b'{"model": "fake", "prompt": "x", "seed": ' + b"9" * 10_000 + b"}",
    "duplicate": b'{"model": "fake", "prompt": "x", "prompt": "y"}',
    "duplicate by escape": b'{"model": "fake", "prompt": "x", "\\u0070rompt": "y"}',
    "nested duplicate": b'{"model": "fake", "prompt": "x", "logit_bias": {"1": 1, "1": 2}}',
    "lone surrogate": b'{"model": "fake", "prompt": "\\ud800"}',
    "lone low surrogate": b'{"model": "fake", "prompt": "\\udc00 x"}',
    "surrogate in UTF-8": b'{"model": "fake", "prompt": "\xed\xa0\x80"}',
    "invalid UTF-8": b'{"model": "fake", "prompt": "\xff\xfe"}',
    "UTF-16": '{"model": "fake", "prompt": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model": "fake", "prompt": "x"}',
    "control character": b'{"model": "fake", "prompt": "a\x01b"}',
    "long field name": b'{"model": "fake", "' + b"x" * 100_000 + b'": 1}',
    "markup in a field name": b'{"model": "fake", "prompt": "x", "<script>\\u001b[31m\\n": 1}',
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(server: ServerProcess, name: str) -> None:
    answer = server.ask("POST", "/v1/completions", BODIES[name])
    if name == "deep in a known field":
        answer = server.ask("POST", "/v1/chat/completions", BODIES[name])
    assert answer.status == 400
    assert len(answer.body) < 1000
    assert "\x1b" not in answer.error["message"]
    assert "\n" not in answer.error["message"]


def test_a_null_character_and_an_astral_one_are_text(server: ServerProcess) -> None:
    answer = server.ask(
        "POST", "/v1/completions", b'{"model": "fake", "prompt": "\\u0000\\ud83d\\ude00", "echo": true}'
    )
    assert answer.status == 200
    assert answer.json()["choices"][0]["text"].startswith("\x00\U0001f600")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_other_media_types(server: ServerProcess, media_type: str) -> None:
    answer = server.ask("POST", "/v1/completions", b"{}", {"Content-Type": media_type})
    assert answer.status == 415
    assert answer.error["code"] == "unsupported_media_type"


def test_compressed_bodies_are_not_unpacked(server: ServerProcess) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    assert server.ask("POST", "/v1/completions", bomb, {"Content-Encoding": "gzip"}).status == 415
    assert server.ask("POST", "/v1/completions", bomb).status == 400


def test_large_bodies(server: ServerProcess) -> None:
    body = json.dumps({"model": "fake", "prompt": "x" * (5 << 20)}).encode()
    answer = server.ask("POST", "/v1/completions", body)
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"
    assert answer.headers["connection"] == "close"
    assert server.ask("POST", "/nowhere", body).status in (404, 413)


def test_a_body_that_only_claims_to_be_large_is_refused_by_its_head(server: ServerProcess) -> None:
    for length in (b"104857600", b"99999999999999999999999", b"9223372036854775807"):
        answer = server.raw(HEAD + b"Content-Length: " + length + b"\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 413 "), answer
    answer = server.raw(HEAD + b"Content-Length: 5000000\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_chunks_without_end(server: ServerProcess) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    answer = server.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 80)
    assert answer.startswith(b"HTTP/1.1 413 ") or answer == b""


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /health\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: abc\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n a: folded\x00\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_malformed_http(server: ServerProcess, data: bytes) -> None:
    answer = server.raw(data)
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 4")
        assert set(json.loads(body)) == {"error"}


def test_pipelined_garbage_follows_an_answer(server: ServerProcess) -> None:
    answer = server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n\x00\x01garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400 " in answer


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = server.raw(first + b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.index(b'"ok"') < answer.index(b'"version"')


@pytest.mark.parametrize(
    "path",
    [
        "//health", "//v1/models", "/v1", "/v1/", "/v1/models/", "/v1/../health", "/%2e%2e/etc/passwd",
        "/v1/models/%2e%2e", "/v1/models/x%00y", "/v1/models/\xff", "/HEALTH", "/health/", "/debug",
        "/static/x",
        "/v1/chat/completions/",
    ],
)  # fmt: skip
def test_unknown_paths(server: ServerProcess, path: str) -> None:
    answer = server.raw(
        b"GET " + path.encode("latin1") + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] in (b"400", b"404"), answer
    assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/completions", "POST"),
        ("GET", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/fake", "GET, HEAD"),
        ("PUT", "/tokenize", "POST"),
        ("OPTIONS", "/v1/completions", "POST"),
    ],
)
def test_other_methods(server: ServerProcess, method: str, path: str, allowed: str) -> None:
    answer = server.ask(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    assert answer.error["code"] == "method_not_allowed"


def test_an_unknown_method(server: ServerProcess) -> None:
    answer = server.ask("BREW", "/v1/models")
    assert answer.status == 405
    assert answer.error["message"]


def test_answers_say_nothing_of_what_runs(server: ServerProcess) -> None:
    for answer in (
        server.ask("GET", "/health"),
        server.ask("GET", "/nowhere"),
        server.ask("POST", "/tokenize", b"{"),
    ):
        text = str(answer.headers) + answer.body.decode()
        assert answer.headers["server"] == "pagedc"
        assert "ornado" not in text
        assert "Traceback" not in text
        assert "/work" not in text
        assert ".py" not in text
        assert "access-control-allow-origin" not in answer.headers


def test_slow_clients_are_hung_up(start_server: "type[ServerProcess]") -> None:
    slow = start_server(limits={"keep_alive_timeout": 1.5, "body_timeout": 1.5})
    with slow.connect() as kept:
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")  # at once: it has no longer than the others
        with slow.connect() as head, slow.connect() as body, slow.connect() as idle:
            head.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
            body.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"model"')
            assert read_all(head) == read_all(body) == read_all(idle) == b""
        assert read_all(kept).startswith(b"HTTP/1.1 200 ")
    assert slow.ask("GET", "/health").status == 200


def test_connections_beyond_the_limit(start_server: "type[ServerProcess]") -> None:
    small = start_server(limits={"max_connections": 4})
    held = [small.connect() for _ in range(4)]
    answer = small.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    for sock in held:
        sock.close()
    end = time.monotonic() + PATIENCE
    question = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    while not small.raw(question).startswith(b"HTTP/1.1 200 "):
        assert time.monotonic() < end, "connections that were closed still count"
        time.sleep(0.02)


def test_many_idle_connections_leave_room_for_others(server: ServerProcess) -> None:
    held = [server.connect() for _ in range(300)]
    assert server.chat().status == 200
    for sock in held:
        sock.close()


def test_streams_go_on_beside_hostile_requests(server: ServerProcess) -> None:
    with server.connect() as sock:
        body = json.dumps({"model": "fake", "prompt": "x", "max_tokens": 200, "stream": True}).encode()
        sock.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        for data in BODIES.values():
            server.ask("POST", "/v1/completions", data, JSON)
        answer = read_all(sock)
    assert answer.count(b"data: ") == 202
    assert b"data: [DONE]\n\n" in answer
