"""What rounding costs, on a model with a tokenizer; and why it is sometimes not measured."""

from pathlib import Path

import msgspec
import pytest
from tests.compiler.packages import manifest
from tests.http.tokenizer_files import write_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from pagedc.compiler import accuracy
from pagedc.compiler.checkpoint import Checkpoint, open_checkpoint
from pagedc.runtime.manifest import Accuracy, Manifest


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, initializer_range=0.3, **sizes))
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    return open_checkpoint(str(tmp_path))


def packed(quantization: str) -> Manifest:
    model = msgspec.structs.replace(manifest().model, vocab_size=300, num_parameters=1000)
    return msgspec.structs.replace(manifest(), quantization=quantization, model=model)


def test_fewer_bits_cost_more(checkpoint: Checkpoint) -> None:
    eight, four = (accuracy.measure(checkpoint, packed(name)) for name in ("int8", "int4"))
    assert isinstance(eight, Accuracy)
    assert isinstance(four, Accuracy)
    assert 0 < 10 * eight.mean_kl < four.mean_kl
    assert eight.reference_perplexity == four.reference_perplexity
    assert eight.num_tokens == manifest().limits.max_model_len  # fewer than are measured elsewhere


def test_what_cannot_be_measured_is_said(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "_available_memory", lambda: 1000)
    assert "not measured: float32 takes" in str(accuracy.measure(checkpoint, packed("int4")))
    checkpoint.tokenizer_files.clear()
    assert accuracy.measure(checkpoint, packed("int4")) == "not measured: the checkpoint has no tokenizer"
