"""The reference is Hugging Face's module with the weights it is given."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from pagedc.compiler.checkpoint import QuantizedTensor, open_checkpoint
from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.reference import Reference

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=request.param,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def as_it_is(name: str, weight: torch.Tensor | QuantizedTensor) -> torch.Tensor:
    assert isinstance(weight, torch.Tensor)
    return weight.float()


def test_logits_are_those_of_the_model(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0]
    found = Reference(open_checkpoint(str(tmp_path)), as_it_is).logits(TOKENS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_rounding_reaches_every_weight(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    seen = []

    def zero(name: str, weight: torch.Tensor | QuantizedTensor) -> torch.Tensor:
        seen.append(name)
        return torch.zeros(weight.shape)

    found = Reference(open_checkpoint(str(tmp_path)), zero).logits(TOKENS)
    assert not found.any()
    assert {name for name, _ in model.named_parameters()} <= set(seen)


def test_missing_weight_is_named(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    missing = "model.layers.1.mlp.up_proj.weight"

    class Holed:
        config, source = checkpoint.config, checkpoint.source
        read = staticmethod(checkpoint.read)

        def names(self) -> list[str]:
            return [name for name in checkpoint.names() if name != missing]

    with pytest.raises(CheckpointError, match=missing):
        Reference(Holed(), as_it_is)  # type: ignore[arg-type]
