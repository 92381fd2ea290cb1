"""`pagedc batch` at a server: every line gets its answer or its error, and an interrupted run goes on."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.http.fake_engine import PANGRAM
from tests.http.server_process import ServerProcess


def line(custom_id: str, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    body = {"model": "fake", "prompt": "hi", "max_tokens": 5} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def run_batch(
    target: str, source: Path, output: Path, *, file_size: int = resource.RLIM_INFINITY
) -> "subprocess.CompletedProcess[str]":
    """`file_size`: bytes that a file may have, as on a disk that is full then."""
    command = [sys.executable, "-P", "-m", "pagedc.runtime.cli", "batch", target, source, "-o", output]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY)),
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_good_and_bad_lines(server: ServerProcess, tmp_path: Path) -> None:
    chat = line("chat", "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}])
    del chat["body"]["prompt"]
    lines = [
        *(json.dumps(line(f"good-{i}", seed=i)) for i in range(20)),
        json.dumps(chat),
        json.dumps(line("refused", temperature=9)),
        "",
        "{not JSON",
        json.dumps(line("good-1")),
        json.dumps(line("stream", stream=True)),
        json.dumps(line("elsewhere", "/v1/models")),
        json.dumps({**line("method"), "method": "GET"}),
        json.dumps({**line("more"), "more": 1}),
    ]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))
    done = run_batch(server.url, source, output)
    assert done.returncode == 1, done.stderr
    assert "21 answered, 7 failed" in done.stderr
    assert "\x1b" not in done.stderr
    found = read(output)
    assert len(found) == 28
    assert len({each["id"] for each in found}) == 28
    answered = {each["custom_id"]: each for each in found if each["response"]}
    for i in range(20):
        response = answered[f"good-{i}"]["response"]
        assert response["status_code"] == 200
        assert response["body"]["choices"][0]["text"] == PANGRAM[i : i + 5]
        assert response["request_id"] == response["body"]["id"]
    assert answered["chat"]["response"]["body"]["object"] == "chat.completion"
    assert answered["refused"]["response"]["status_code"] == 400
    assert answered["refused"]["response"]["body"]["error"]["param"] == "temperature"
    errors = sorted(each["error"]["message"] for each in found if each["error"])
    assert [message.partition(":")[0] for message in errors] == [f"line {n}" for n in range(24, 30)]
    assert "stands twice" in errors[1]


def test_an_interrupted_run_goes_on(server: ServerProcess, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps(line(name)) for name in "abcd"))
    assert run_batch(server.url, source, output).returncode == 0
    first, second, third, last = output.read_text().splitlines(keepends=True)
    failed = json.loads(third)
    failed["response"]["status_code"] = 500
    output.write_text(first + second + json.dumps(failed) + "\n" + last[:30])
    done = run_batch(server.url, source, output)
    assert done.returncode == 0
    assert "2 answered, 0 failed, 2 were there already" in done.stderr
    assert output.read_text().startswith(first + second)
    assert sorted(each["custom_id"] for each in read(output)) == list("abcd")


@pytest.mark.parametrize("target", ["http://127.0.0.1:9"])
def test_a_server_that_is_not_there_fails_each_line(target: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(line("a")))
    assert run_batch(target, source, output).returncode == 1
    assert read(output)[0]["error"]["code"] == "no_answer"


def test_wrong_files(server: ServerProcess, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    missing = run_batch(server.url, source, output)
    assert (missing.returncode, "cannot be read" in missing.stderr) == (2, True)
    source.write_text(json.dumps(line("a")))
    assert run_batch(server.url, source, source).returncode == 2
    for content in (b"a file of mine\n", b'{"custom_id": "\xff"}\n'):
        output.write_bytes(content)
        foreign = run_batch(server.url, source, output)
        assert foreign.returncode == 2
        assert len(foreign.stderr.splitlines()) == 1
        assert output.read_bytes() == content


def test_a_full_disk_is_one_line(server: ServerProcess, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps(line(f"{i}")) for i in range(40)))
    done = run_batch(server.url, source, output, file_size=4096)
    assert done.returncode == 1
    assert re.fullmatch(r"pagedc batch: error: \S+: File too large; \d+ answers are in it, .*\n", done.stderr)
    done = run_batch(server.url, source, output, file_size=100)  # nor is there room to take up what is there
    assert done.returncode == 2
    assert re.fullmatch(r"pagedc batch: error: \S+: cannot be taken up: File too large\n", done.stderr)
    assert run_batch(server.url, source, output).returncode == 0
    assert sorted(int(each["custom_id"]) for each in read(output)) == list(range(40))


@pytest.mark.parametrize("name", ["nowhere/out.jsonl", "folder"])
def test_an_output_that_cannot_be_opened(server: ServerProcess, tmp_path: Path, name: str) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(line("a")))
    (tmp_path / "folder").mkdir()
    done = run_batch(server.url, tmp_path / "in.jsonl", tmp_path / name)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
