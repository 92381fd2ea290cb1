"""What `benchmarks.formats` measures: the same model padded, and rounded as each method stores it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.compiler.checkpoint.models import SIZES, llama_metadata
from tests.compiler.checkpoint.test_gguf import build, gguf_tensors
from transformers import LlamaConfig

from benchmarks.padded import pad
from benchmarks.rounded import METHODS, round_checkpoint
from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.checkpoint.put_together import as_floats
from pagedc.compiler.reference import Reference, unrounded

WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4, "tie_word_embeddings": True}
ERRORS = {"AWQ": 0.12, "GPTQ": 0.12, "compressed-tensors-int4": 0.12, "fp8": 0.04}  # of norms, after rounding


@pytest.fixture
def write(write_gguf: Callable[..., Path]) -> Callable[[LlamaConfig], Path]:
    def written(config: LlamaConfig) -> Path:
        return write_gguf(llama_metadata(config), gguf_tensors(build(config), "llama"))

    return written


def test_a_padded_model_computes_the_same(write: Callable[[LlamaConfig], Path], tmp_path: Path) -> None:
    source, target = write(LlamaConfig(**SIZES)), tmp_path / "padded.gguf"
    pad(source, target)
    narrow, wide = open_checkpoint(str(source)), open_checkpoint(str(target))
    assert wide.shape("model.layers.0.self_attn.q_proj.weight") == (256, 256)
    assert wide.shape("model.layers.1.self_attn.v_proj.weight") == (128, 256)
    assert wide.shape("model.layers.1.mlp.down_proj.weight") == (256, 64)
    expected, found = (Reference(each, unrounded).logits([5, 9, 40, 1, 77]) for each in (narrow, wide))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_means_what_its_plain_twin_holds(
    name: str, write: Callable[[LlamaConfig], Path], tmp_path: Path
) -> None:
    source = write(LlamaConfig(**(SIZES | WIDE)))
    round_checkpoint(source, name, tmp_path / "model", tmp_path / "plain")
    original, rounded = open_checkpoint(str(source)), open_checkpoint(str(tmp_path / "model"))
    assert rounded.quantization == METHODS[name][0]["quant_method"]
    meant = load_file(tmp_path / "plain" / "model.safetensors")
    for key, weight in meant.items():
        torch.testing.assert_close(as_floats(rounded.read(key)).float(), weight, rtol=3e-7, atol=1e-9)
        exact = as_floats(original.read(key))
        error = float((weight - exact).norm() / exact.norm())
        assert (0 < error < ERRORS.get(name, 0.01)) if "_proj" in key else error == 0
