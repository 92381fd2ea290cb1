import subprocess
import sys
from pathlib import Path

import pytest

from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.model_name import DEMO, model_path

REFUSE = """
import sys
from pagedc.compiler.cli import main
assert main(sys.argv[1:]) == 2
assert "torch" not in sys.modules
"""


def test_what_lies_on_the_disk_is_a_path(tmp_path: Path) -> None:
    config, file = tmp_path / "config.json", tmp_path / "model.gguf"
    config.write_text("{}")
    file.write_bytes(b"GGUF and more")
    for path in (tmp_path, file):
        assert model_path(str(path)) == path
    for path in (tmp_path, config):
        assert model_path(str(path), random_weights=True) == path


@pytest.mark.parametrize("model", [DEMO, "owner/name"])
def test_what_is_fetched_is_none(model: str) -> None:
    assert model_path(model) is None


@pytest.mark.parametrize("model", ["", "no-such-model", "owner/name.gguf", "a/b/c", "/missing"])
def test_anything_else_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match="smollm2-135m"):
        model_path(model)


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        model_path("a" * 300)
    with pytest.raises(CheckpointError, match="~nobody-of-this-name/model: not found"):
        model_path("~nobody-of-this-name/model")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("no-such-model", [], "not found"),
        ("empty", [], "no config.json in it; MODEL is"),
        ("empty", ["--random-weights"], "no config.json in it; MODEL is"),
        ("adapter", [], "an adapter; give its base model as MODEL, and --lora adapter"),
        ("text.gguf", [], "it does not begin with GGUF"),
        ("text.json", [], "with --random-weights a config alone"),
        ("text.gguf", ["--random-weights"], "needs a directory with config.json"),
        (DEMO, ["--random-weights"], "it has its weights"),
    ],
)
def test_what_is_no_model_is_refused_before_torch_is_imported(
    name: str, words: list[str], message: str, tmp_path: Path
) -> None:
    for folder in ("empty", "adapter"):
        (tmp_path / folder).mkdir()
    for file in ("text.gguf", "text.json", "adapter/adapter_config.json"):
        (tmp_path / file).write_text("hello")
    command = [sys.executable, "-c", REFUSE, "compile", name, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
