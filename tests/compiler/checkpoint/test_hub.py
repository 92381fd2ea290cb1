from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors
from transformers import LlamaConfig

from pagedc.compiler.checkpoint import hub, open_checkpoint
from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.model_name import is_hub_id


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "accept the terms on"),
        (errors.RepositoryNotFoundError, "not a model of the hub"),
        (errors.LocalEntryNotFoundError, "cannot be reached"),
        (errors.HfHubHTTPError, "cannot be downloaded: what happened"),
        (OSError, "cannot be downloaded: what happened"),
    ],
)
def test_each_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    def download(*arguments: Any, **options: Any) -> str:
        error = kind.__new__(kind)  # some need an HTTP response to be made
        error.args = ("what happened\nand more",)
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint("org/name")
    assert "\n" not in str(raised.value)


def test_a_download_is_opened(
    monkeypatch: pytest.MonkeyPatch, save: Callable[..., tuple[Path, Any]], llama: LlamaConfig
) -> None:
    directory, _ = save(llama)
    asked: list[dict[str, Any]] = []

    def download(model: str, **options: Any) -> str:
        asked.append(options)
        return str(directory)

    monkeypatch.setattr(hub, "snapshot_download", download)
    checkpoint = open_checkpoint("org/name")
    assert (checkpoint.name, checkpoint.source) == ("name", "org/name@llama")
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in asked[0]["allow_patterns"])
    assert open_checkpoint("org/name", random_weights=True).name == "name"
    assert "*.safetensors" not in asked[1]["allow_patterns"]


def test_ids() -> None:
    assert is_hub_id("HuggingFaceTB/SmolLM2-135M-Instruct")
    for other in ("name", "a/b/c", "../x", "./x", "/x", "a/", "a b/c", "a/..", "a\n/b"):
        assert not is_hub_id(other)
