"""Sizes, vocabularies and tensors of tiny models."""

from typing import Any

import gguf
import torch

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WORDS = ["<unk>", "<s>", "</s>", *(chr(33 + index) for index in range(90)), "Ġ", "ab", "Ġa"]
MERGES = ["a b", "Ġ a"]


def llama_metadata(config: Any, architecture: str = "llama") -> dict[str, Any]:
    """The metadata of a llama-like model."""
    heads = {
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
    }
    sizes = {
        "context_length": 128,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "rope.dimension_count": config.head_dim,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        **heads,
    }
    return {f"{architecture}.{key}": value for key, value in sizes.items()}


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One value of metadata, in the type that llama.cpp gives it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def permute(weights: torch.Tensor, num_heads: int) -> torch.Tensor:
    """What llama.cpp's converter does to the rows of q and k."""
    return weights.unflatten(0, (num_heads, 2, -1)).swapaxes(1, 2).flatten(0, 2)
