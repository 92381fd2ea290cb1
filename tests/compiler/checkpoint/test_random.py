import json
from pathlib import Path

import pytest
import torch
from tests.compiler.checkpoint.models import SIZES

from pagedc.compiler.checkpoint import open_checkpoint


def tensor(checkpoint: object, name: str) -> torch.Tensor:
    value = checkpoint.read(name)  # type: ignore[attr-defined]
    assert isinstance(value, torch.Tensor)
    return value


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    values = {"model_type": "llama", **SIZES, "initializer_range": 0.05, "tie_word_embeddings": True}
    path.write_text(json.dumps(values))
    return path


def test_same_values_at_every_read(config: Path) -> None:
    first, second = (open_checkpoint(str(config), random_weights=True) for _ in range(2))
    for name in reversed(first.names()):
        assert torch.equal(tensor(first, name), tensor(second, name))
        assert tuple(tensor(first, name).shape) == first.shape(name)


def test_values_have_the_model_s_scale(config: Path) -> None:
    checkpoint = open_checkpoint(str(config), random_weights=True)
    assert tensor(checkpoint, "model.layers.0.mlp.up_proj.weight").float().std().item() == pytest.approx(
        0.05, rel=0.1
    )
    assert tensor(checkpoint, "model.norm.weight").mean().item() == pytest.approx(1, abs=0.05)
    layers = (tensor(checkpoint, f"model.layers.{layer}.mlp.up_proj.weight") for layer in (0, 1))
    assert not torch.equal(*layers)


def test_tied_tensors_are_equal(config: Path) -> None:
    checkpoint = open_checkpoint(str(config), random_weights=True)
    names = ("lm_head.weight", "model.embed_tokens.weight")
    assert torch.equal(*(tensor(checkpoint, name) for name in names))


def test_name_source_and_dtype(config: Path) -> None:
    checkpoint = open_checkpoint(str(config), random_weights=True)
    assert (checkpoint.name, checkpoint.dtype) == ("tiny", "bfloat16")
    assert checkpoint.source.endswith("tiny.json, random weights")
    config.rename(config.parent / "config.json")
    assert open_checkpoint(str(config.parent), random_weights=True).name == config.parent.name
