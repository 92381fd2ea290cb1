from pathlib import Path

import pytest

from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.errors import CheckpointError


@pytest.mark.parametrize(
    "model", ["", "nothing", "./a/b/c", "../x", "missing.gguf", "org/missing.gguf", "a b/c"]
)
def test_what_is_not_there_is_one_line(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="a Hugging Face directory, a hub id") as error:
        open_checkpoint(model)
    assert "\n" not in str(error.value)


def test_hub_without_network_is_one_line() -> None:
    with pytest.raises(CheckpointError, match="cannot be reached") as error:
        open_checkpoint("pagedc-tests/no-such-model")
    assert "\n" not in str(error.value)


def test_a_folder_of_gguf_files_names_one(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CheckpointError, match=r"such as .*model\.gguf"):
        open_checkpoint(str(tmp_path))


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(CheckpointError, match="MODEL is a Hugging Face directory"):
        open_checkpoint(str(path))
    with pytest.raises(CheckpointError, match="--random-weights needs"):
        open_checkpoint(str(path), random_weights=True)
