"""Small random models of many architectures, as transformers builds them."""

from pathlib import Path
from typing import Any

import torch
from tests.compiler.state_families import STATE_CONFIGS
from tests.conformance.shrink import small_config
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

VOCAB_SIZE = 211  # not a multiple of a panel

_LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS: dict[str, Any] = {**_LLAMA, "num_local_experts": 6, "num_experts_per_tok": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": True},
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 24},
    "mistral": {**_LLAMA, "sliding_window": 7},
    "gemma2": {
        **_LLAMA,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "sliding_window": 8,
        "query_pre_attn_scalar": 16,
    },
    "gemma3_text": {
        **_LLAMA,
        "num_hidden_layers": 7,
        "head_dim": 16,
        "sliding_window": 8,
        "query_pre_attn_scalar": 16,
    },
    "phi3": _LLAMA,
    "gpt2": {
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        "vocab_size": VOCAB_SIZE,
        "n_positions": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "bloom": {
        "hidden_size": 64,
        "n_layer": 3,
        "n_head": 4,
        "vocab_size": VOCAB_SIZE,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "llama4_text": {
        **_LLAMA,
        "intermediate_size_mlp": 96,
        "head_dim": 16,
        "attention_chunk_size": 9,
        "no_rope_layers": [1, 1, 0],
        "moe_layers": [],  # dense
    },
    "gpt_neox": {**_LLAMA, "rotary_pct": 0.25},
    "olmo2": _LLAMA,
    "granite": {
        **_LLAMA,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.3,
        "embedding_multiplier": 4.0,
        "attention_multiplier": 0.2,
    },
    "cohere": _LLAMA,
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 64,
    },
    "mixtral": _EXPERTS,
    "qwen3_moe": {**_LLAMA, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "gpt_oss": {
        **_EXPERTS,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}

# One type for each feature that none of the others has, its default config made small.
FEATURES = {
    "falcon": "one key and value head",
    "deepseek_v3": "latent attention; shared experts and groups of experts, biased",
    "gemma3n_text": "keys shared by layers, embeddings for each layer",
    "xglm": "sinusoidal positions",
}


def make_config(name: str, **overrides: Any) -> PretrainedConfig:
    """A small config of a model type."""
    if name in FEATURES:
        return small_config(name)
    return AutoConfig.for_model(name, **((CONFIGS | STATE_CONFIGS).get(name, {}) | overrides))


def make_model(name: str, **overrides: Any) -> torch.nn.Module:
    """The module of a config in float32, of random parameters."""
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(make_config(name, **overrides), dtype=torch.float32))


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """The model with every parameter random, those of norms and biases too."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.08)
    return model.eval()


def save_model(name: str, directory: Path, **overrides: Any) -> torch.nn.Module:
    """Write a model as a Hugging Face checkpoint, and return it."""
    model = make_model(name, **overrides)
    model.save_pretrained(directory)  # type: ignore[operator]
    return model
