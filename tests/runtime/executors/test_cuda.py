"""Packages for a GPU on a driver library without one: what is called, in which order, with which structs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.compiler.families import save_model

import pagedc
from pagedc.runtime.package import Package

HERE = Path(__file__).parent
CONFIG: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cuda")
    save_model("llama", directory / "model", **CONFIG)
    return pagedc.compile(
        directory / "model",
        directory / "package",
        target="cuda:sm_90",
        dtype="bfloat16",
        max_num_seqs=2,
        max_num_batched_tokens=4,
        max_model_len=32,
        threads=2,
    )


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = HERE / "fake_cuda.cpp"
    subprocess.run(["g++", "-std=c++17", "-shared", "-fPIC", "-Wall", "-o", library, source], check=True)
    return library.parent


def run(package: Path, driver: Path, log: Path, major: str = "9") -> dict[str, Any]:
    own = {"LD_LIBRARY_PATH": str(driver), "FAKE_CUDA_LOG": str(log), "FAKE_CUDA_MAJOR": major}
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | own
    command = [sys.executable, HERE / "run_on_fake_cuda.py", package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_drives_a_gpu_without_torch_or_triton(package: Path, driver: Path, tmp_path: Path) -> None:
    result = run(package, driver, tmp_path / "log")
    assert result["imported"] == []  # and so nothing can be compiled
    assert len(result["token_ids"]) == 6
    assert result["phases"] == ["driver", "weights", "memory", "first_graph"]
    assert result["num_prepared"] == 4  # the decode of two sequences, and prompts of 1, 2 and 4 tokens
    lines = (tmp_path / "log").read_text().splitlines()
    assert "graph" in lines
    launches = [line for line in lines if " grid " in line]
    assert all(line.endswith("pdl 1") for line in launches)
    assert any(line.startswith("attention_prefill_kernel") for line in launches)
    # The last step decodes one sequence: one graph, and in it each kernel of each layer.
    graph = lines[len(lines) - lines[::-1].index("graph") :]
    assert sum(line.startswith("attention_split_kernel") for line in graph) == 2
    assert not any(line.startswith("attention_prefill_kernel") for line in graph)
    assert lines[-1] == "released 0"  # of all that was allocated
    Package.open(package, verify=True)  # running it has left no trace in it


def test_another_gpu_is_refused(package: Path, driver: Path, tmp_path: Path) -> None:
    result = run(package, driver, tmp_path / "log", major="8")
    assert "compiled for sm_90, but this GPU is sm_80; compile for cuda:sm_80" in result["error"]


def test_a_machine_without_a_driver_is_told_so(package: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    command = [sys.executable, HERE / "run_on_fake_cuda.py", package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no NVIDIA driver" in done.stderr.splitlines()[-1]
