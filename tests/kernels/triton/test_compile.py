"""Every kernel, compiled for three chips without a GPU: registers, shared memory and instructions."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join([str(ROOT / "src"), environment.get("PYTHONPATH", "")])
    environment |= {
        "PYTHONPATH": path,
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    script = Path(__file__).with_name("compile_all.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_is_compiled_for_every_chip(compiled: list[dict[str, Any]]) -> None:
    names = {case["name"].split()[-1] for case in compiled}
    files = (ROOT / "kernels" / "triton").glob("*.py")
    kernels = {
        line.removeprefix("def ").split("(")[0]
        for file in files
        for line in file.read_text().splitlines()
        if line.startswith("def ") and line.split("(")[0].endswith("_kernel")
    }
    assert names == kernels
    for kernel in kernels:
        assert {case["chip"] for case in compiled if case["name"].endswith(kernel)} == {80, 90, 100}


def test_nothing_spills_and_everything_fits(compiled: list[dict[str, Any]]) -> None:
    """But for 120 bytes of a prefill's tile on sm_80 where the compiler is Triton 3.6; 3.9 spills none."""
    allowed = {80: 128, 90: 0, 100: 0}
    wrong = [case for case in compiled if case["spilled_bytes"] > allowed[case["chip"]] or not case["fits"]]
    assert wrong == []


def test_dependent_launch_only_where_the_chip_has_it(compiled: list[dict[str, Any]]) -> None:
    assert all(case["pdl"] == (case["chip"] >= 90) for case in compiled)


def test_products_run_on_tensor_cores(compiled: list[dict[str, Any]]) -> None:
    """The same kind for one token and for many, so that they add alike; weights in 16-byte copies."""
    wanted = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
    dense = [case for case in compiled if case["name"].endswith((" linear_kernel", "persistent_kernel"))]
    for case in dense:
        if not case["name"].startswith("f32"):
            assert wanted[case["chip"]] in case["instructions"], case
    persistent = [case for case in dense if case["name"].startswith("persistent") and case["chip"] >= 90]
    assert len(persistent) > 1
    assert all("cp.async.bulk.tensor" in case["instructions"] for case in persistent), persistent
    copies = [case for case in dense if case["name"].startswith("bf16")]
    assert all("cp.async.cg" in case["instructions"] for case in copies), copies
