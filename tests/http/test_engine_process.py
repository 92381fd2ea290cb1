"""The server over a real engine, scheduler and engine process; only the executor is a mock."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.http.server_process import POST_COMPLETION, ServerProcess, events, fake_server
from tests.runtime.mock_engine import HOLD, KILL, SLOW


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mock engine's folder."""
    return tmp_path_factory.mktemp("well")


@pytest.fixture(scope="module")
def mocked(tokenizer_dir: Path, package: Path) -> Iterator[ServerProcess]:
    """A server with a vocabulary of 40 tokens, whose engine obeys the first token of a prompt."""
    with fake_server(tokenizer_dir, {"mock_process": str(package)}) as process:
        yield process


def test_a_request_answers_the_same_alone_and_among_others(mocked: ServerProcess) -> None:
    def ask(seed: int) -> object:
        return mocked.complete(prompt=[1, 2, 3], max_tokens=12, seed=seed, ignore_eos=True).json()["choices"]

    alone = [ask(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


def test_streams(mocked: ServerProcess) -> None:
    fields = {"prompt": [[1, 2], [3]], "n": 2, "max_tokens": 9, "temperature": 0, "ignore_eos": True}
    whole = mocked.complete(**fields, return_token_ids=True).json()
    chunks = events(mocked.complete(**fields, return_token_ids=True, stream=True).body)
    for choice in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert sum((part.get("token_ids", []) for part in parts), []) == choice["token_ids"]  # noqa: RUF017
        assert len(choice["token_ids"]) == 9
        assert "".join(part["text"] for part in parts) == choice["text"]


def test_logprobs_and_cached_tokens(mocked: ServerProcess) -> None:
    prompt = list(range(1, 14))
    fields = {"prompt": prompt, "max_tokens": 2, "logprobs": 3, "echo": True, "ignore_eos": True}
    logprobs = mocked.complete(**fields).json()["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(prompt) + 2
    assert logprobs["token_logprobs"][0] is None
    assert all(value < 0 for value in logprobs["token_logprobs"][1:])
    usage = mocked.complete(prompt=prompt, max_tokens=1).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 12


def test_an_engine_that_dies_is_replaced(mocked: ServerProcess) -> None:
    restarts = mocked.metric("engine_restarts_total")
    answer = mocked.complete(prompt=[KILL])
    assert answer.status == 500
    assert answer.error["code"] == "engine_dead"
    assert mocked.complete(prompt=[1]).status == 200
    assert mocked.metric("engine_restarts_total") == restarts + 1


def test_a_client_that_leaves_frees_the_engine(mocked: ServerProcess, package: Path) -> None:
    body = b'{"model": "fake", "prompt": [%d], "max_tokens": 60, "ignore_eos": true}' % SLOW
    num_tokens = mocked.metric("generation_tokens_total")
    (package / HOLD).touch()
    with mocked.connect() as sock:
        sock.sendall(POST_COMPLETION % len(body) + body)
        mocked.wait_for_metric("num_requests_running", 1)
    mocked.wait_for_metric("num_http_requests", 0)
    (package / HOLD).unlink()
    mocked.wait_for_metric("num_requests_running", 0)
    assert mocked.metric("generation_tokens_total") < num_tokens + 60
