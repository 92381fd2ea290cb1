"""The demo model from its name to its answers, through the package's own launcher."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.e2e.generation import generate, make_prompts
from tests.http.server_process import ServerProcess
from tests.patience import PATIENCE

MODEL = "SmolLM2-135M-Instruct"
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(demo_server: ServerProcess) -> Iterator[openai.OpenAI]:
    """The real client of the real model."""
    url = f"{demo_server.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client


def ask(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=20)
    return answer.choices[0].message.content or ""


def engine_pid(server: ServerProcess) -> int:
    """The child of the server that runs the model."""
    server_pid = server.process.pid
    children = Path(f"/proc/{server_pid}/task/{server_pid}/children").read_text().split()
    return next(
        int(pid) for pid in children if b"engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def test_the_answer_is_paris(client: openai.OpenAI) -> None:
    assert ask(client) == "The capital of France is Paris."


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=20, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == (
        "The capital of France is Paris."
    )


def test_a_stop_string_ends_before_itself(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=20, stop=["Paris"]
    )
    assert answer.choices[0].message.content == "The capital of France is "
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats_its_samples(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=1, seed=7, n=2, max_tokens=12
        )
        for _ in range(2)
    ]
    texts = [[choice.message.content for choice in answer.choices] for answer in answers]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_logprobs_of_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=4, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text.startswith(" Paris")
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.top_logprobs is not None
    assert all(len(top) == 2 for top in logprobs.top_logprobs)


def test_a_killed_engine_fails_its_streams_and_comes_back(
    demo_server: ServerProcess, client: openai.OpenAI
) -> None:
    failures: list[str] = []
    whole: list[int] = []  # streams that a slow client has read too late to see them fail
    counts = [0] * 8

    def read(i: int) -> None:
        try:
            for _ in client.completions.create(
                model=MODEL,
                prompt=f"Story {i}:",
                max_tokens=450,
                stream=True,
                extra_body={"ignore_eos": True},
            ):
                counts[i] += 1
            whole.append(i)
        except openai.APIError as error:
            failures.append(error.message)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    while min(counts) < 2:
        assert not failures
        time.sleep(0.01)
    os.kill(engine_pid(demo_server), signal.SIGKILL)
    for thread in threads:
        thread.join(PATIENCE)
    assert len(failures) + len(whole) == 8
    assert failures
    assert all("the engine died" in failure for failure in failures)
    assert ask(client) == "The capital of France is Paris."


def test_outputs_in_a_batch_are_those_alone(demo_package: Path) -> None:
    prompts = make_prompts(49152, count=32)
    alone = generate(demo_package, prompts, num_tokens=4)
    arrivals = [random.Random(i).randrange(20) for i in range(len(prompts))]
    assert generate(demo_package, prompts, num_tokens=4, arrivals=[0] * 32).outputs == alone.outputs
    crowded = generate(
        demo_package,
        prompts,
        num_tokens=4,
        arrivals=arrivals,
        prefix_cache=True,
        num_threads=2,
        num_blocks=10,
    )
    assert crowded.outputs == alone.outputs


def test_a_moved_package_serves(demo_package: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(demo_package, tmp_path / "else where" / "moved.pagedc")
    with ServerProcess([moved / "serve", "--port", "0", "--max-model-len", "512"]) as server:
        answer = server.chat(model=MODEL, messages=QUESTION, temperature=0, max_tokens=20)
        assert answer.json()["choices"][0]["message"]["content"] == "The capital of France is Paris."


def test_pagedc_chat_answers_what_is_piped_in(demo_package: Path) -> None:
    pagedc = ["-P", "-m", "pagedc.runtime.cli", "chat", str(demo_package), "--temperature", "0"]
    done = subprocess.run(
        [sys.executable, *pagedc],
        input=QUESTION[0]["content"] + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "The capital of France is Paris."
