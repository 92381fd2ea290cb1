"""Servers in processes of their own, and clients for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.http.server_process import ServerProcess, fake_server
from tests.http.tokenizer_files import write_tokenizer
from tests.patience import PATIENCE


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package's tokenizer directory."""
    directory = tmp_path_factory.mktemp("package") / "tokenizer"
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def server(tokenizer_dir: Path) -> Iterator[ServerProcess]:
    """The server that most tests share: a token takes a millisecond."""
    with fake_server(tokenizer_dir, {"engine": {"delay": 0.001}}) as process:
        yield process


@pytest.fixture
def start_server(tokenizer_dir: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers with settings of one's own."""
    processes: list[ServerProcess] = []

    def start(**settings: Any) -> ServerProcess:
        processes.append(fake_server(tokenizer_dir, settings).__enter__())
        return processes[-1]

    yield start
    for process in processes:
        process.__exit__(None, None, None)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    """The real client of the shared server."""
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
    ) as client:
        yield client
