"""Adapters as PEFT saves them, merged as PEFT merges them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.compiler.checkpoint.models import SIZES
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.cli import main
from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.compiler.trace import quiet

Save = Callable[..., tuple[Path, Any]]
ALL = ["q_proj", "v_proj", "down_proj"]
LLAMA = LlamaConfig(**SIZES)
GPT2 = GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=96, bos_token_id=1, eos_token_id=2)


def adapter(base: Path, directory: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Save an adapter with random weights; returns the merged model's tensors."""
    torch.manual_seed(1)
    with torch.no_grad(), quiet():  # peft calls what transformers deprecates
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        changed: Any = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options))
        for name, parameter in changed.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(0, 0.1)
            elif parameter.requires_grad:
                parameter.add_(torch.rand_like(parameter))
        changed.save_pretrained(directory)
        merged: dict[str, torch.Tensor] = changed.merge_and_unload().state_dict()
    return merged


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (LLAMA, {"target_modules": ALL, "r": 4, "lora_alpha": 12}),
        (LLAMA, {"target_modules": ALL, "r": 4, "lora_alpha": 12, "use_rslora": True}),
        (LLAMA, {"target_modules": ALL, "r": 4, "use_dora": True}),
        (LLAMA, {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]}),
        (LLAMA, {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
        (
            LLAMA,
            {
                "target_modules": ALL,
                "rank_pattern": {"v_proj": 2},
                "alpha_pattern": {"layers.1.mlp.down_proj": 3},
            },
        ),
        (GPT2, {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "lora_only"}),
    ],
    ids=["plain", "rslora", "dora", "embedding", "dora of an embedding", "patterns", "transposed"],
)
def test_merges_as_peft_does(save: Save, tmp_path: Path, config: Any, options: dict[str, Any]) -> None:
    base, _ = save(config)
    merged = adapter(base, tmp_path / "adapter", **options)
    checkpoint = open_checkpoint(str(base), lora=f"french={tmp_path / 'adapter'}")
    assert checkpoint.name == f"{config.model_type}-french"
    plain = open_checkpoint(str(base))
    different = 0
    for name in checkpoint.names():
        found = checkpoint.read(name)
        assert isinstance(found, torch.Tensor)
        torch.testing.assert_close(found, merged[name], rtol=1e-5, atol=1e-6)
        different += not torch.equal(found, plain.read(name))  # type: ignore[arg-type]
    assert different >= 2


@pytest.fixture
def adapted(save: Save, tmp_path: Path) -> tuple[Path, Path]:
    base, _ = save(LLAMA)
    adapter(base, tmp_path / "adapter", target_modules=ALL)
    return base, tmp_path / "adapter"


def test_its_name_is_the_directory_s(adapted: tuple[Path, Path]) -> None:
    assert open_checkpoint(str(adapted[0]), lora=str(adapted[1])).name == "llama-adapter"


def test_an_adapter_of_another_model_is_refused(adapted: tuple[Path, Path]) -> None:
    base, directory = adapted
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    save_file(tensors | {key: torch.zeros(5, 8)}, path)
    with pytest.raises(CheckpointError, match=r"down_proj\.weight is \[32, 64\] in llama"):
        open_checkpoint(str(base), lora=str(directory))
    save_file({name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=r"layers\.7.* has no place in llama"):
        open_checkpoint(str(base), lora=str(directory))


def test_half_of_a_tied_pair_is_refused(save: Save, tmp_path: Path) -> None:
    base, _ = save(LlamaConfig(**SIZES, tie_word_embeddings=True))
    adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    with pytest.raises(UnsupportedError, match=r"embed_tokens\.weight is tied to another tensor"):
        open_checkpoint(str(base), lora=str(tmp_path / "adapter"))


def test_several_are_a_package_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "nowhere", "--lora", "a=x", "--lora", "b=y"]) == 2
    assert "--lora is given 2 times" in capsys.readouterr().err
