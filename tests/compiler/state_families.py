"""Configs of small models whose layers carry state from token to token: one of each kind of layer."""

from typing import Any

VOCAB_SIZE = 211

_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEADS: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 12,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_LINEAR_ATTENTION: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 16,
    "head_dim": 16,
}

STATE_CONFIGS: dict[str, dict[str, Any]] = {
    # convolutions and attention
    "lfm2": {**_COMMON, "layer_types": ["conv", "conv", "full_attention", "conv"], "conv_L_cache": 3},
    # state-space heads beside attention in each layer
    "falcon_h1": {**_COMMON, **_HEADS, "num_hidden_layers": 3, "mamba_d_ssm": 128},
    # state-space heads alone: no layer attends
    "mamba2": {
        "hidden_size": 64,
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 12,
        "n_groups": 2,
        "num_hidden_layers": 3,
        "vocab_size": VOCAB_SIZE,
        "chunk_size": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    # selective scans, attention and experts
    "jamba": {
        **_COMMON,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "mamba_d_state": 12,
    },
    # the gated delta rule, a decay a head
    "qwen3_5_text": {
        **_COMMON,
        **_LINEAR_ATTENTION,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    },
    # the gated delta rule, a decay an element of a key; experts
    "kimi_linear": {
        **_COMMON,
        "num_key_value_heads": 4,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    },
    # gated linear units, and weights by block of a token's value
    "recurrent_gemma": {**_COMMON, "lru_width": 64, "head_dim": 16, "attention_window_size": 8},
    # averages weighted by exponentials, and delays of one token
    "rwkv": {
        "hidden_size": 64,
        "attention_hidden_size": 64,
        "num_hidden_layers": 3,
        "vocab_size": VOCAB_SIZE,
        "context_length": 256,
    },
    # linear attention by blocks of tokens, and experts
    "minimax": {
        **_COMMON,
        "head_dim": 16,
        "block_size": 16,
        "num_local_experts": 4,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    },
    # biases by the distance to a key, short convolutions and experts
    "inkling_text": {
        **_COMMON,
        "head_dim": 16,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "sliding_window_size": 8,
        "d_rel": 5,
        "rel_extent": 20,
        "log_scaling_n_floor": 10,
        "num_hidden_layers": 2,
        "layer_types": ["hybrid_sliding", "hybrid"],
        "mlp_layer_types": ["dense", "sparse"],
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "logits_mup_width_multiplier": 2.0,
    },
    # matrix memories, relative to a running maximum
    "xlstm": {
        "hidden_size": 64,
        "num_blocks": 3,
        "num_heads": 4,
        "vocab_size": VOCAB_SIZE,
        "embedding_dim": 64,
    },
}

# Compiled and run; of the others the traced graph is interpreted, which takes no C++ compiler's time.
COMPILED = ("lfm2", "falcon_h1", "mamba2", "jamba", "qwen3_5_text", "inkling_text")
