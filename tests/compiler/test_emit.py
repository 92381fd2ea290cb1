"""The text of model.cpp: as it was reviewed, and the same every time.

`PAGEDC_ACCEPT=1 pytest tests/compiler/test_emit.py` rewrites what is expected; the diff is for a person.
"""

import os
from pathlib import Path

import pytest
from tests.compiler.families import make_config, save_model

import pagedc
from pagedc.compiler.lower import lower
from pagedc.compiler.passes import run_passes
from pagedc.compiler.targets.cpu.emit import emit
from pagedc.compiler.targets.cpu.row_printer import print_body
from pagedc.compiler.trace import trace
from pagedc.runtime.package import Package

EXPECTED = Path(__file__).with_name("expected")
FORMATS = {"llama": "bf16", "mixtral": "f32"}


def emitted(name: str) -> str:
    graph = trace(make_config(name))
    run_passes(graph, lambda node: FORMATS[name])
    kv_type = "bf16" if FORMATS[name] == "bf16" else "float"
    return emit(lower(graph, print_body), f"small {name}", "0.0.0", "x86-64-v4", kv_type)


@pytest.mark.parametrize("name", FORMATS)
def test_is_as_expected(name: str) -> None:
    path, text = EXPECTED / f"{name}.cpp", emitted(name)
    if os.environ.get("PAGEDC_ACCEPT") == "1":
        EXPECTED.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_two_compiles_give_the_same_bytes(tmp_path: Path) -> None:
    save_model("qwen2", tmp_path / "model")
    first, second = (
        Package.open(pagedc.compile(tmp_path / "model", tmp_path / name / "same.pagedc", dtype="bfloat16"))
        for name in ("first", "second")
    )
    assert first.manifest.files == second.manifest.files
    assert len(first.manifest.files) > 10
    assert first.manifest == second.manifest
