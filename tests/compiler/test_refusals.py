"""What pagedc cannot compile is refused in one line, before anything is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compiler.families import make_config
from transformers import AutoConfig

import pagedc.compiler.trace  # noqa: F401  # the rules
from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.table import TABLE
from pagedc.compiler.cli import main
from pagedc.compiler.errors import UnsupportedError

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 211}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bert": (
        {**SMALL, "intermediate_size": 96},
        "bert: pagedc.attention at bert.encoder.layer.0.attention.self: ",
    ),
    # Relative positions of pairs of tokens, as a table that is longer than the tokens.
    "xlnet": (
        {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 96, "vocab_size": 211},
        "xlnet: ",
    ),
    "t5": ({"d_model": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 211}, "t5: its module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, message = REFUSED[name]
    AutoConfig.for_model(name, **options).save_pretrained(tmp_path / "model")
    words = ["compile", str(tmp_path / "model"), "-o", str(tmp_path / "package"), "--random-weights"]
    assert main(words) == 3
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("pagedc: error: " + message)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_gpu_has_no_kernel_for_biases_of_the_distance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_config("inkling_text").save_pretrained(tmp_path / "model")
    words = ["compile", str(tmp_path / "model"), "-o", str(tmp_path / "package"), "--random-weights"]
    assert main([*words, "--target", "cuda:sm_90"]) == 3
    assert "attention with a bias of each distance, on a GPU" in capsys.readouterr().err


class Chooser(torch.nn.Module):
    """How many rows it gives, no number of tokens tells."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(16, 8)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.embedding(token_ids[token_ids > 3])
        return rows


@pytest.mark.parametrize("has_rules", [True, False], ids=["an op with a rule", "an op without one"])
def test_sizes_that_values_decide(has_rules: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_rules:
        monkeypatch.delitem(TABLE, "aten.index")
    token_ids = torch.arange(11)[None]
    shapes = ({1: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Chooser().eval(), (token_ids,), dynamic_shapes=shapes, strict=False)
    with pytest.raises(
        UnsupportedError, match=r"^aten\.index at the top level: a size that the values of tokens"
    ):
        Importer(program, {}, {}).run()
