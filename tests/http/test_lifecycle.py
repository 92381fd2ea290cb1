"""Starting, overload, clients that leave, draining and dying."""

import http.client
import json
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.http.fake_engine import PANGRAM
from tests.http.server_process import POST_COMPLETION, Answer, ServerProcess, events, read_all
from tests.patience import PATIENCE

Start = Callable[..., ServerProcess]
ENDLESS = "#until /nowhere/at/all#"


def open_request(server: ServerProcess, **fields: Any) -> socket.socket:
    """Send a completion request that does not end by itself, and leave its answer unread."""
    body = json.dumps({"model": "fake", "prompt": ENDLESS, "max_tokens": 400, **fields}).encode()
    sock = server.connect()
    sock.sendall(POST_COMPLETION % len(body) + body)
    return sock


def in_background(work: Callable[[], Answer]) -> Callable[[], Answer]:
    """Start work in a thread; calling the result waits for it."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()

    def wait() -> Answer:
        thread.join(PATIENCE)
        return answers[0]

    return wait


def test_a_stream_over_http_1_0(server: ServerProcess) -> None:
    body = json.dumps({"model": "fake", "prompt": "x", "max_tokens": 9, "stream": True}).encode()
    answer = server.raw((POST_COMPLETION % len(body)).replace(b"HTTP/1.1", b"HTTP/1.0") + body)
    head, _, stream = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert "".join(event["choices"][0]["text"] for event in events(stream)) == PANGRAM[:9]


def test_a_stream_leaves_its_connection_for_the_next_request(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    for stream in (True, False, True):
        body = {"model": "fake", "prompt": "x", "max_tokens": 9, "stream": stream}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        sock = connection.sock
        assert b'"finish_reason":"length"' in connection.getresponse().read()
        assert connection.sock is sock
    connection.close()


def test_requests_before_the_engine_is_ready_wait(start_server: Start, tmp_path: Path) -> None:
    server = start_server(engine={"boot_until": str(tmp_path / "go")})
    assert server.ask("GET", "/health").status == 200
    ready = server.ask("GET", "/ready")
    assert (ready.status, ready.json(), ready.headers["retry-after"]) == (503, {"status": "starting"}, "1")
    assert server.ask("GET", "/v1/models").status == 200
    early = in_background(server.complete)
    server.wait_for_metric("num_http_requests", 1)
    (tmp_path / "go").touch()
    answer = early()
    assert answer.status == 200
    assert answer.json()["choices"][0]["text"] == PANGRAM[:5]
    assert server.ask("GET", "/ready").json() == {"status": "ready"}


def test_an_engine_that_cannot_start_ends_the_server(start_server: Start) -> None:
    server = start_server(engine={"fail": "the package is broken"})
    assert server.process.wait(PATIENCE) == 1
    assert "the package is broken" in server.log()


def test_too_many_requests(start_server: Start) -> None:
    server = start_server(limits={"max_waiting": 2})
    held = [open_request(server) for _ in range(6)]  # four run, two wait
    server.wait_for_metric("num_http_requests", 6)
    answer = server.complete()
    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.error["type"] == "rate_limit_error"
    assert server.ask("GET", "/health").status == 200
    for sock in held:
        sock.close()
    server.wait_for_metric("num_http_requests", 0)
    assert server.complete(max_tokens=1).status == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_a_client_that_leaves_ends_its_request(server: ServerProcess, stream: bool, how: str) -> None:
    server.wait_for_metric("num_requests_running", 0)  # what an earlier test left is gone
    num_tokens = server.metric("generation_tokens_total")
    sock = open_request(server, prompt=["a" + ENDLESS, "b" + ENDLESS], n=2, stream=stream)
    server.wait_for_metric("num_requests_running", 2)
    if stream:
        assert sock.recv(10)
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half-close":
        sock.shutdown(socket.SHUT_WR)
    else:
        sock.close()
    server.wait_for_metric("num_requests_running", 0)
    assert server.metric("generation_tokens_total") < num_tokens + 4 * 400
    sock.close()


def test_a_client_that_leaves_between_requests(server: ServerProcess) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert server.complete().status == 200


def test_a_client_that_does_not_read_is_left(start_server: Start) -> None:
    server = start_server(limits={"write_timeout": 0.3})
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    sock.connect((server.host, server.port))
    body = json.dumps(
        {"model": "fake", "prompt": ["x"] * 64, "n": 4, "max_tokens": 500, "stream": True, "logprobs": 20}
    ).encode()
    sock.sendall(POST_COMPLETION % len(body) + body)
    end = time.monotonic() + PATIENCE
    while 'finished_reason="abort"' not in server.ask("GET", "/metrics").body.decode():
        assert time.monotonic() < end
    server.wait_for_metric("num_requests_running", 0)
    server.wait_for_metric("num_http_requests", 0)
    assert server.complete().status == 200
    sock.close()


def test_sigterm_lets_running_requests_end(start_server: Start, tmp_path: Path) -> None:
    server = start_server()
    prompt = f"#until {tmp_path / 'go'}#"
    stream = in_background(lambda: server.complete(prompt=prompt, max_tokens=20, stream=True))
    whole = in_background(lambda: server.complete(prompt=prompt, max_tokens=20))
    server.wait_for_metric("num_requests_running", 2)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_log("Draining")
    ready = server.ask("GET", "/ready")
    assert (ready.status, ready.json()) == (503, {"status": "draining"})
    refused = server.complete()
    assert (refused.status, refused.error["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert server.ask("GET", "/health").status == 200
    (tmp_path / "go").touch()
    assert "".join(event["choices"][0]["text"] for event in events(stream().body)) == PANGRAM[:20]
    assert whole().json()["choices"][0]["text"] == PANGRAM[:20]
    assert server.process.wait(PATIENCE) == 0


def test_sigterm_waits_only_so_long(start_server: Start) -> None:
    server = start_server(limits={"drain_timeout": 0.2})
    stream = in_background(lambda: server.complete(prompt=ENDLESS, max_tokens=400, stream=True))
    whole = in_background(lambda: server.complete(prompt=ENDLESS, max_tokens=400))
    server.wait_for_metric("num_requests_running", 2)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    last = stream().body.decode().strip().split("\n\n")[-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["message"], error["code"]) == ("The server is shutting down.", "shutting_down")
    assert (whole().status, whole().error) == (503, error)
    assert int(whole().headers["retry-after"]) > 0


def test_sigint_ends_the_server_with_its_requests(start_server: Start) -> None:
    server = start_server()
    sock = open_request(server, stream=True)
    server.wait_for_metric("num_requests_running", 1)
    server.process.send_signal(signal.SIGINT)
    assert b'"shutting_down"' in read_all(sock)
    assert server.process.wait(PATIENCE) == 130
    sock.close()


def test_sigterm_while_the_engine_starts(start_server: Start) -> None:
    server = start_server(engine={"boot_until": "/nowhere/at/all"})
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0


def test_sigint_while_the_engine_starts(start_server: Start) -> None:
    server = start_server(engine={"boot_until": "/nowhere/at/all"})
    early = in_background(server.complete)
    server.wait_for_metric("num_http_requests", 1)
    server.process.send_signal(signal.SIGINT)
    assert (early().status, early().error["code"]) == (503, "shutting_down")
    assert server.process.wait(PATIENCE) == 130


def test_metrics(start_server: Start) -> None:
    server = start_server()
    server.complete(max_tokens=7, n=2)
    server.complete(prompt="#eos 3", max_tokens=7)
    server.complete(temperature=-1)
    text = server.ask("GET", "/metrics").body.decode()
    for name in (
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "time_per_output_token_seconds",
        "request_queue_time_seconds",
    ):
        assert f'pagedc:{name}_bucket{{le="+Inf",model_name="fake"}}' in text
    assert server.metric("e2e_request_latency_seconds_count") == 3
    assert server.metric("generation_tokens_total") == 7 * 2 + 4
    assert 'pagedc:request_success_total{finished_reason="length",model_name="fake"} 2.0' in text
    assert 'pagedc:request_success_total{finished_reason="stop",model_name="fake"} 1.0' in text
    assert 'pagedc:request_rejections_total{status="400"} 1.0' in text
    assert 'pagedc:boot_seconds{model_name="fake",phase="engine"}' in text
