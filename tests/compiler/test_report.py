"""The report: the same rows for a person and a machine."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from pagedc.compiler.errors import PackageError
from pagedc.compiler.progress import PhaseTime
from pagedc.compiler.report import load_manifest, load_tuning, next_step, print_report, report_as_dict
from pagedc.compiler.tuning import TunedKernel, Tuning, dump_tuning
from pagedc.runtime.manifest import (
    ABI_VERSION,
    SCHEMA_VERSION,
    Accuracy,
    FileEntry,
    KVCache,
    Limits,
    Manifest,
    Memory,
    Model,
    Target,
    dump_manifest,
)

TUNING = Tuning(
    device="Some CPU, 2 threads",
    mode="quick",
    kernels=[
        TunedKernel("layer.qkv", "T=1 N=960 K=576 [int4]", 4, "panels=2", 12.34, 81.2, 1.25),
        TunedKernel("layer.norm", "T=1 N=576", 1, "default"),
    ],
    read_bandwidth=30.4e9,
)


MANIFEST = Manifest(
    schema_version=SCHEMA_VERSION,
    pagedc_version="0",
    abi_version=ABI_VERSION,
    model=Model("Tiny", "llama", 1000, 2, 32, 64),
    target=Target("cpu", "x86_64", "native", [], "Some CPU"),
    dtype="bfloat16",
    quantization="none",
    program="kernels/model.so",
    kv_cache=KVCache("bfloat16", 16, 4096),
    limits=Limits(64, 8, 64),
    memory=Memory(2000, 100, 128),
    weights=[],
    files={"weights/model.safetensors": FileEntry(3_000_000, "0"), "model.cpp": FileEntry(1000, "0")},
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_bytes(dump_manifest(MANIFEST))
    (tmp_path / "tuning.json").write_bytes(dump_tuning(TUNING))
    return tmp_path


def test_tuning_is_read_back_and_the_same_bytes(package: Path) -> None:
    assert load_tuning(package) == TUNING
    assert dump_tuning(load_tuning(package)) == (package / "tuning.json").read_bytes()


def test_table_shows_each_kernel_and_dashes_for_what_was_not_timed(package: Path) -> None:
    stream = io.StringIO()
    print_report(Console(file=stream, width=120), package, 12.34)
    text = stream.getvalue()
    for part in (
        "T=1 N=960 K=576 [int4]",
        "12.3",
        "81",
        "1.25 ×",
        "30.4 GB/s",
        "Tiny, bfloat16 weights, 3 MB in 12.3 s",
    ):
        assert part in text
    (row,) = [line for line in text.splitlines() if "layer.norm" in line]
    assert row.count("–") == 3
    assert "\x1b" not in text


def test_says_how_to_serve_it_or_what_it_lacks() -> None:
    assert "cannot be served: put a tokenizer.json beside the weights" in next_step(Path("p"), MANIFEST)
    files = MANIFEST.files | {"tokenizer/tokenizer.json": FileEntry(10, "0")}
    whole = msgspec.structs.replace(MANIFEST, files=files)
    assert next_step(Path("p"), whole) == "serve it: p/serve --port 8000"


def test_json_has_the_same_rows_and_the_phases(package: Path) -> None:
    report = report_as_dict(package, [PhaseTime("trace", 1.0, "2 layers"), PhaseTime("emit", 0.5, "")])
    assert report["seconds"] == 1.5
    assert [phase["name"] for phase in report["phases"]] == ["trace", "emit"]
    assert [row["kernel"] for row in report["tuning"]["kernels"]] == ["layer.qkv", "layer.norm"]
    assert report["bytes"] == 3_001_000


@pytest.mark.parametrize("name", ["manifest.json", "tuning.json"])
def test_what_is_missing_or_broken_is_named(package: Path, name: str) -> None:
    (package / name).write_text("{")
    with pytest.raises(PackageError, match="cannot be read"):
        report_as_dict(package)
    (package / name).unlink()
    with pytest.raises(PackageError, match=name):
        report_as_dict(package)


def test_the_cost_of_rounding_is_told(package: Path) -> None:
    manifest = load_manifest(package)
    accuracy = Accuracy(256, perplexity=20.2, reference_perplexity=20.0, mean_kl=0.01234)
    (package / "manifest.json").write_bytes(
        dump_manifest(msgspec.structs.replace(manifest, accuracy=accuracy, quantization="int4"))
    )
    stream = io.StringIO()
    print_report(Console(file=stream, width=100), package)
    line = "perplexity 20.200, +1.00% of the unquantised model's; KL 0.01234; 256 tokens"
    assert line in stream.getvalue()
    assert report_as_dict(package)["accuracy"]["mean_kl"] == 0.01234
