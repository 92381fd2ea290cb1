"""The stdlib client and its care for the server's process, against launchers that misbehave."""

import importlib.util
import json
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "examples" / "serving.py"

# What a package's launcher is to its caller: --host H --port P, then HTTP. Each test has its own
# `answer(attempt, handler)`.
LAUNCHER = """\
#!{python}
import http.server, pathlib, sys

state = pathlib.Path(__file__).with_name("attempts")
attempt = len(state.read_text()) if state.exists() else 0
state.write_text("x" * (attempt + 1))
port = int(sys.argv[sys.argv.index("--port") + 1])


def events(handler, *texts, usage=3):
    handler.send_response(200)
    handler.end_headers()
    for text in texts:
        handler.wfile.write(b'data: {{"choices": [{{"delta": {{"content": "%s"}}}}]}}\\n\\n' % text.encode())
    handler.wfile.write(b'data: {{"choices": [], "usage": {{"completion_tokens": %d}}}}\\n\\n' % usage)
    handler.wfile.write(b"data: [DONE]\\n\\n")


{body}


class Handler(http.server.BaseHTTPRequestHandler):
    count = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        Handler.count += 1
        answer(self, Handler.count)

    def log_message(self, *args):
        pass


http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def serving() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serving_example", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_package(folder: Path, body: str) -> Path:
    (folder / "manifest.json").write_text(json.dumps({"model": {"name": "m"}}))
    launcher = folder / "serve"
    launcher.write_text(LAUNCHER.format(python=sys.executable, body=textwrap.dedent(body)))
    launcher.chmod(0o755)
    return folder


def test_streams_the_answer_of_a_server_that_is_still_starting(serving: ModuleType, tmp_path: Path) -> None:
    body = """
        import time
        time.sleep(0.2)  # nobody listens yet

        def answer(handler, count):
            if count == 1:
                handler.send_error(503)
            else:
                events(handler, "Par", "is")
    """
    with serving.Server(make_package(tmp_path, body)) as server:
        pieces = list(server.chat("?"))
    assert "".join(piece.text for piece in pieces) == "Paris"
    assert pieces[-1].usage == {"completion_tokens": 3}
    assert [piece.seconds for piece in pieces] == sorted(piece.seconds for piece in pieces)


def test_a_taken_port_is_tried_again(serving: ModuleType, tmp_path: Path) -> None:
    body = """
        if attempt == 0:
            sys.exit("error: address already in use")

        def answer(handler, count):
            events(handler, "yes")
    """
    with serving.Server(make_package(tmp_path, body)) as server:
        assert next(iter(server.chat("?"))).text == "yes"


def test_a_server_that_ends_is_told_with_its_log(serving: ModuleType, tmp_path: Path) -> None:
    with serving.Server(make_package(tmp_path, 'sys.exit("no such CPU")')) as server:
        with pytest.raises(serving.ServerError, match="ended with exit code 1"):
            next(iter(server.chat("?")))
        assert server.log == "no such CPU"


def test_errors_are_passed_on(serving: ModuleType, tmp_path: Path) -> None:
    body = """
        def answer(handler, count):
            if count == 1:
                handler.send_error(400, "bad model")
            else:
                handler.send_response(200)
                handler.end_headers()
                handler.wfile.write(b'data: {"error": {"message": "the engine died"}}\\n\\n')
    """
    with serving.Server(make_package(tmp_path, body)) as server:
        with pytest.raises(serving.ServerError, match=r"answered 400: (?s:.*)bad model"):
            next(iter(server.chat("?")))
        with pytest.raises(serving.ServerError, match="the engine died"):
            next(iter(server.chat("?")))


def test_the_server_is_stopped_when_the_block_fails(serving: ModuleType, tmp_path: Path) -> None:
    package = make_package(tmp_path, "def answer(handler, count): events(handler, 'x')")
    server = serving.Server(package)

    def fail() -> None:
        with server:
            next(iter(server.chat("?")))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert server._process.poll() is not None
