import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.compiler.checkpoint.models import SIZES
from transformers import DeepseekV3Config, GPT2Config, LlamaConfig, MixtralConfig, PretrainedConfig

from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.errors import CheckpointError, UnsupportedError

Save = Callable[..., tuple[Path, Any]]

CONFIGS = [
    LlamaConfig(**SIZES),
    LlamaConfig(**SIZES, tie_word_embeddings=True),
    MixtralConfig(**SIZES, num_local_experts=3),
    GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=96, bos_token_id=1, eos_token_id=2),
    DeepseekV3Config(
        **SIZES,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_reads_what_the_module_has(save: Save, config: PretrainedConfig, shard_size: str) -> None:
    directory, model = save(config, max_shard_size=shard_size)
    checkpoint = open_checkpoint(str(directory))
    state = model.state_dict()
    assert set(checkpoint.names()) == set(state)
    for name in checkpoint.names():
        tensor = checkpoint.read(name)
        assert isinstance(tensor, torch.Tensor)
        assert torch.equal(tensor, state[name])
        assert checkpoint.shape(name) == tuple(tensor.shape)
    assert (checkpoint.dtype, checkpoint.quantization) == ("float32", "none")
    assert checkpoint.name == config.model_type


def test_experts_lie_apart_in_the_file(save: Save) -> None:
    directory, _ = save(CONFIGS[2])
    stored = load_file(directory / "model.safetensors")
    assert any(".experts.2.w1." in name for name in stored)  # else the conversion is not what is tested


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_means_bfloat16(save: Save, llama: LlamaConfig, dtype: torch.dtype) -> None:
    directory, _ = save(llama, dtype)
    checkpoint = open_checkpoint(str(directory))
    assert checkpoint.dtype == "bfloat16"
    assert checkpoint.read("model.norm.weight").dtype == dtype  # type: ignore[union-attr]


def test_either_name_of_a_tied_tensor_is_read(save: Save) -> None:
    directory, _ = save(LlamaConfig(**SIZES, tie_word_embeddings=True))
    path = directory / "model.safetensors"
    tensors = load_file(path)
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, path)
    checkpoint = open_checkpoint(str(directory))
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(checkpoint.names())
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(checkpoint.read(name), tensors["lm_head.weight"])  # type: ignore[arg-type]


def test_a_base_model_without_its_prefix_is_read(save: Save, llama: LlamaConfig) -> None:
    directory, _ = save(llama)
    path = directory / "model.safetensors"
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    assert torch.equal(open_checkpoint(str(directory)).read("model.norm.weight"), tensors["norm.weight"])  # type: ignore[arg-type]


def test_missing_parameter_is_refused(save: Save, llama: LlamaConfig) -> None:
    directory, _ = save(llama)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"1 parameters missing, first model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        open_checkpoint(str(directory))


def test_other_shape_is_refused(save: Save, llama: LlamaConfig) -> None:
    directory, _ = save(llama)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 128}))
    with pytest.raises(CheckpointError, match=r"\[96, 32\] in the file, \[128, 32\] by its config"):
        open_checkpoint(str(directory))


def test_integers_for_floats_are_refused(save: Save, llama: LlamaConfig) -> None:
    directory, _ = save(llama)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)
    save_file(tensors, path)
    with pytest.raises(UnsupportedError, match=r"lm_head.weight: stored as I8"):
        open_checkpoint(str(directory))


def test_unknown_name_is_refused(save: Save, llama: LlamaConfig) -> None:
    directory, _ = save(llama)
    checkpoint = open_checkpoint(str(directory))
    for ask in (checkpoint.read, checkpoint.shape):
        with pytest.raises(CheckpointError, match=r"holds no model\.layers\.7"):
            ask("model.layers.7.mlp.up_proj.weight")
