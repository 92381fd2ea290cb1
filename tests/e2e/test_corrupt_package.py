"""A package that was damaged after it was compiled is refused in one line that names what is wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.patience import PATIENCE


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _newer_schema(path: Path) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "schema_version": 99}))


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "program changed": ("kernels/model.so", lambda path: _flip(path, 5000), "sha256 differs"),
    "program cut": ("kernels/model.so", _cut, "but its manifest says"),
    "program gone": ("kernels/model.so", Path.unlink, "missing"),
    "weights cut": ("weights/model.safetensors", _cut, "but its manifest says"),
    "weights gone": ("weights/model.safetensors", Path.unlink, "missing"),
    "weights' header changed": (
        "weights/model.safetensors",
        lambda path: _flip(path, 8),
        "model.safetensors",
    ),
    "manifest cut": ("manifest.json", _cut, "not a manifest"),
    "manifest of another schema": ("manifest.json", _newer_schema, "upgrade pagedc"),
    "tokenizer changed": ("tokenizer/tokenizer.json", lambda path: _flip(path, 50), "sha256 differs"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_is_refused_in_one_line(tiny_package: Path, tmp_path: Path, damage: str) -> None:
    name, break_it, message = DAMAGES[damage]
    package = shutil.copytree(tiny_package, tmp_path / "broken.pagedc")
    break_it(package / name)
    command = [sys.executable, "-P", "-m", "pagedc.runtime.cli", "serve", str(package), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    errors = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert done.returncode == 4
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
