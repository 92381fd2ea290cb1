"""Embedding models: without a head, pooled as sentence-transformers says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compiler.checkpoint.models import SIZES
from tests.http.tokenizer_files import write_tokenizer
from transformers import LlamaConfig, LlamaModel

import pagedc
from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.runtime.errors import RequestError
from pagedc.runtime.manifest import Embedding

Save = Callable[..., tuple[Path, Any]]
POOLING = {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}


@pytest.fixture
def bare(tmp_path: Path) -> tuple[Path, LlamaModel]:
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(**SIZES, matryoshka_dimensions=[8, 16])).eval()
    model.save_pretrained(tmp_path / "bare")
    return tmp_path / "bare", model


def write_modules(directory: Path, *kinds: str, pooling: dict[str, bool] = POOLING) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"1_{kind}"} for kind in kinds]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, **pooling})
    )


def test_a_model_without_a_head_gives_embeddings(bare: tuple[Path, LlamaModel], tmp_path: Path) -> None:
    directory, model = bare
    write_modules(directory, "Transformer", "Pooling", "Normalize")
    write_tokenizer(directory)
    package = pagedc.compile(directory, tmp_path / "x.pagedc")
    ids = [5, 6, 7, 8, 9]
    hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0].detach()
    with pagedc.LLM(package, num_threads=1, max_model_len=64) as llm:
        for row, options in (
            (hidden[-1], {}),  # as 1_Pooling says
            (hidden.mean(0), {"pooling": "mean"}),
            (hidden[-1][:8], {"dimensions": 8}),
        ):
            (found,) = llm.embed(ids, **options)  # type: ignore[arg-type]
            torch.testing.assert_close(torch.tensor(found), row / row.norm(), rtol=1e-4, atol=1e-5)
        with pytest.raises(RequestError, match="can be cut to 8, 16"):
            llm.embed(ids, dimensions=9)
        with pytest.raises(RequestError, match="no head"):
            llm.generate(ids)


@pytest.mark.parametrize("wrong", [{"type": 5}, {"type": "x.Pooling", "path": 5}, {"type": None}])
def test_modules_that_are_none(bare: tuple[Path, LlamaModel], wrong: dict[str, Any]) -> None:
    (bare[0] / "modules.json").write_text(json.dumps([wrong]))
    with pytest.raises(UnsupportedError):
        open_checkpoint(str(bare[0]))


def test_a_causal_lm_generates(save: Save, llama: LlamaConfig) -> None:
    purpose = open_checkpoint(str(save(llama)[0])).purpose
    assert purpose.generates
    assert purpose.embedding == Embedding("mean", None)


def test_a_causal_lm_that_lacks_its_head_is_broken(bare: tuple[Path, LlamaModel]) -> None:
    config = json.loads((bare[0] / "config.json").read_text())
    (bare[0] / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(CheckpointError, match=r"1 parameters missing, first lm_head\.weight"):
        open_checkpoint(str(bare[0]))


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (("Transformer", "Pooling", "Dense"), POOLING, "through a Dense"),
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pools by pooling_mode_max_tokens"),
        (("Transformer", "Pooling"), {**POOLING, "pooling_mode_cls_token": True}, "lasttoken and pooling"),
        (("Transformer", "Pooling"), {}, "pools by nothing"),
    ],
)
def test_what_is_not_supported(
    bare: tuple[Path, LlamaModel], kinds: tuple[str, ...], pooling: dict[str, bool], message: str
) -> None:
    write_modules(bare[0], *kinds, pooling=pooling)
    with pytest.raises(UnsupportedError, match=message):
        open_checkpoint(str(bare[0]))
