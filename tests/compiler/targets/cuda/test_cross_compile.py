"""Every kernel that small models need, as cubins for each chip, on a machine with no GPU."""

import json
from pathlib import Path

import pytest
from tests.compiler.families import save_model
from tests.compiler.targets.cuda.test_packages import CONFIGS

import pagedc
from pagedc.compiler.errors import OptionError, ToolchainError
from pagedc.compiler.targets.cuda.cross_compile import compile_binaries
from pagedc.compiler.targets.cuda.launch_table import Binary, global_scratch_bytes
from pagedc.runtime.package import Package

# Bytes a program may have: CUDA C++ Programming Guide, table of compute capabilities.
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10}


# sm_90 without state: tests/runtime/executors/test_cuda.py
@pytest.mark.parametrize(
    ("arch", "name"), [("sm_80", "mixtral"), ("sm_90", "qwen3_next"), ("sm_100", "gemma2")]
)
def test_every_kernel_becomes_a_cubin(arch: str, name: str, tmp_path: Path) -> None:
    save_model(name, tmp_path / "model", max_position_embeddings=512, **CONFIGS[name])
    package = pagedc.compile(
        tmp_path / "model",
        tmp_path / "package",
        target=f"cuda:{arch}",  # type: ignore[arg-type]
        dtype="bfloat16",
        max_num_seqs=1,
        max_num_batched_tokens=2,
        max_model_len=300,  # three splits of a decode's keys: the kernels have four
        threads=2 if arch == "sm_80" else 1,  # each imports torch
    )
    manifest = Package.open(package, verify=True).manifest
    assert (manifest.target.kind, manifest.target.arch) == ("cuda", arch)
    table = json.loads((package / "kernels" / "kernels.json").read_text())
    for binary in table["binaries"]:
        assert f"kernels/{binary['file']}" in manifest.files
        assert (package / "kernels" / binary["file"]).read_bytes()[:4] == b"\x7fELF"
        assert binary["pdl"] == (arch != "sm_80")
        assert 0 <= binary["shared"] <= SHARED_BYTES[arch]
        assert 32 <= binary["threads"] <= 1024
        assert binary["hidden"] >= 0
    launched = {
        launch["binary"]
        for kernel in table["kernels"].values()
        for launches in kernel["launches"].values()
        for launch in launches
    }
    assert launched == set(range(len(table["binaries"])))


def test_launches_share_one_scratch() -> None:
    launches = [{"binary": 0, "grid": [99, 1, 1]}, {"binary": 1, "grid": [3, 2, 1]}]
    binaries = [{"global_scratch": 0}, {"global_scratch": 256}]
    assert global_scratch_bytes([launches, [{"binary": 1, "grid": [5, 1, 1]}]], binaries) == 6 * 256
    assert global_scratch_bytes([launches], [{}, {}]) == 0  # the interpreter's


def test_what_does_not_compile_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    source = (
        "import triton\nimport triton.language as tl\n@triton.jit\ndef wrong(x):\n    tl.store(x, nothing)\n"
    )
    (tmp_path / "kernels" / "bad.py").write_text(source)
    binary = Binary("bad", "wrong", (("x", "*fp32"),), (), (), 1, 1, False)
    with pytest.raises(
        ToolchainError, match=r"cannot be compiled for sm_90: bad\.wrong: .*nothing"
    ) as raised:
        compile_binaries(tmp_path, [binary], "sm_90", 1)
    assert "\n" not in str(raised.value)


def test_an_unknown_chip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cuda:sm_70.*cuda:sm_90"):
        pagedc.compile(tmp_path, tmp_path / "package", target="cuda:sm_70")  # type: ignore[arg-type]
