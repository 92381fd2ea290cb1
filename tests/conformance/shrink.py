"""The default config of any model type, made small by the kind of each field.

Widths become a few dozen, odd where nothing forbids it; layers become the first of every kind that the config
lists; what is None but needed gets the value that its name asks for. No model type is named: a field's name
and its default say what it is.
"""

import contextlib
import inspect
import re
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

VOCAB_SIZE = 211  # not a multiple of a panel
MAX_LEN = 256
HEADS, KV_HEADS = 4, 2
HIDDEN = 96  # heads of 24: halves and quarters of them are still even
MIN_LAYERS = 3

# The first pattern that matches a field's whole name says what a larger number, or None, becomes.
SIZES: tuple[tuple[str, int], ...] = (
    (r".*vocab(_size)?(_per_layer_input)?", VOCAB_SIZE),
    (
        r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_target_positions|max_sequence_length"
        r"|max_source_positions|context_length|prefill_chunk_size",
        MAX_LEN,
    ),
    (
        r"(num_)?(experts_per_tok(en)?|experts_per_token)|(moe_)?(num_experts_)?top_?k(_experts)?|moe_topk"
        r"|top_k_experts",
        2,
    ),
    (r"num_(local_|routed_|moe_)?experts|n_routed_experts|moe_num_experts|num_moe_experts", 8),
    (r"n_group|moe_num_expert_group|num_expert_group", 4),
    (r"topk_group", 2),
    (r"zero_expert_num", 4),
    (r"(num_|n_)?(shared_experts|n_shared_experts|moe_num_shared_experts)", 1),
    (r"first_k_dense_replace|num_dense_layers|first_k_dense|moe_layer_start_index|num_hash_layers", 1),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank|.*_lora_rank|.*_low_rank_dim|.*_latent_size|dense_rank", 24),
    (r"qk_rope_head_dim|rope_head_dim|rotary_dim", 8),
    (r"qk_nope_head_dim|nope_head_dim", 16),
    (r"qk_head_dim", 24),
    (r"v_head_dim", 12),
    (
        r"(global_|swa_|attention_)?(head_dim|head_size)|kv_channels|d_kv|attention_head_dim|hidden_size_per_head",
        24,
    ),
    (r"linear_(key|value)_head_dim", 24),
    (r"linear_num_key_heads", 2),
    (r"linear_num_value_heads", 4),
    (r"index_head_dim", 16),
    (r"index_topk", MAX_LEN),
    (r"index_n_heads", 2),
    (r"hidden_size_per_layer_input", 8),
    (r"sliding_window(_size)?|window_size|attention_window(_size)?|local_window.*|attention_chunk_size", 8),
    (
        r"(num_|n_)?(key_value_heads|kv_heads|query_groups)|.*num_(global_)?key_value_heads|multi_query_group_num",
        KV_HEADS,
    ),
    (
        r"num_attention_heads|n_heads?|num_heads|decoder_attention_heads|encoder_attention_heads"
        r"|num_decoder_attention_heads|num_encoder_attention_heads|attention_heads|.*num_attention_heads",
        HEADS,
    ),
    (
        r"moe_intermediate_size|expert_(hidden|intermediate)_size|moe_ffn.*|ffn_expert.*|.*expert.*_size"
        r"|dim_expert.*",
        40,
    ),
    (
        r".*intermediate_size.*|ffn_dim|n_inner|dim_ff|ffn_hidden_size|(de|en)coder_ffn_dim|d_ff|inner_dim|d_inner"
        r"|feed_forward.*size|.*_ffn_dim|mlp_hidden_size|intermediate_dim|d_ffn|dff",
        100,
    ),
    (
        r"hidden_size|d_model|n_embd|dim_model|hidden_dim|emb_dim|word_embed_proj_dim|d_embed|lru_width"
        r"|embedding_size|attention_hidden_size|cross_attention_hidden_size|decoder_hidden_size|model_dim|width"
        r"|embed_dim|input_hidden_size|adapter_(in|out)(put_size|_dim)|output_hidden_size|hidden_size_global|mm_hidden_size|projection_dim",
        HIDDEN,
    ),
    (r"type_vocab_size", 2),
)
LAYERS = re.compile(
    r"num_hidden_layers|n_layers?|num_layers|(de|en)coder_layers|num_(de|en)coder_layers|num_mem_blocks|depth"
)
WIDTH = re.compile(r"hidden_size|d_model|n_embd|dim_model|emb_dim|hidden_dim")
PERIODS = re.compile(r".*(period|pattern|interval|every|_freq|offset|step|stride)\w*")
TOKENS = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "sep_token_id": 2,
}
MAX_PERIOD = 8
# What modules need though their config's default leaves it out; sizes come from SIZES.
NEEDED: tuple[tuple[str, Any], ...] = (
    (r"rope_theta", 10000.0),
    (r".*dropout\w*", 0.0),
    (r".*budget", 4 * MAX_LEN),
    (r"clip_\w+", 8.0),
    (r"indexer_n_heads", 2),
    (r"indexer_kv_heads", 1),
    (r"indexer_head_dim", 24),
    (r"indexer_compress_ratio", 4),
)


MUST_BE = re.compile(r"(\w+) must be (\d+)")


def small_config(model_type: str, fill: bool = False) -> PretrainedConfig:
    """A small config of a model type; `fill` gives fields that are None a size.

    Raises whatever its class raises.
    """
    return _Shrinker(default_config(model_type), fill).run()


def default_config(model_type: str) -> PretrainedConfig:
    """The default config; where its own class refuses that, with the numbers of its text that it asks for."""
    asked: dict[str, int] = {}
    while True:
        try:
            return CONFIG_MAPPING[model_type](**{"text_config": asked} if asked else {})
        except Exception as error:
            found = MUST_BE.search(str(error))
            if found is None or found[1] in asked:
                raise
            asked[found[1]] = int(found[2])


class _Shrinker:
    def __init__(self, default: PretrainedConfig, fill: bool) -> None:
        self.default = default
        self.fill = fill
        self.values = _values(default)
        if fill and (default.base_config_key or "").startswith("att"):
            self.values.setdefault("rope_theta", None)  # a part of a config may be read for it
        self.total = next((v for k, v in self.values.items() if LAYERS.fullmatch(k) and type(v) is int), None)
        self.width = next(
            (v for k, v in self.values.items() if WIDTH.fullmatch(k) and type(v) is int), HIDDEN
        )
        self.layers = self._layers()

    def run(self) -> PretrainedConfig:
        """The same config with small sizes."""
        overrides = {}
        for key, value in self.values.items():
            new = self._shrunk(key, value)
            if new is not value or (type(value) is int and value == 0):  # a zero may be asked for
                overrides[key] = new
        if self.values.get("is_decoder") is False:
            overrides["is_decoder"] = True
        return type(self.default)(**overrides)

    def _layers(self) -> list[int]:
        """Which layers stay: two of every kind that per-layer lists tell apart, and at least three.

        Where the last layers share what others made, each kind stands on both sides.
        """
        if self.total is None:
            return list(range(MIN_LAYERS))
        lists = [v for v in self.values.values() if isinstance(v, list | tuple) and len(v) == self.total]
        lists = [v for v in lists if list(v) != list(range(self.total))]  # the numbers of all layers
        kinds = [str(tuple(v[i] for v in lists)) for i in range(self.total)]
        chosen: set[int] = set()
        for kind in dict.fromkeys(kinds):
            chosen.update([i for i, other in enumerate(kinds) if other == kind][:2])
        periods = [v for k, v in self.values.items() if PERIODS.fullmatch(k) and type(v) is int]
        least = max([MIN_LAYERS, *(p + 1 for p in periods if not lists and p <= MAX_PERIOD)])
        chosen.update(range(max(0, min(least - len(chosen), self.total))))
        if self._shared():
            first = sorted(kinds.index(kind) for kind in dict.fromkeys(kinds))
            return first + first
        return sorted(chosen)

    def _shared(self) -> bool:
        return any(k.endswith("kv_shared_layers") and v for k, v in self.values.items() if type(v) is int)

    def _shrunk(self, key: str, value: Any) -> Any:
        if isinstance(value, PretrainedConfig):
            return _Shrinker(value, self.fill).run()
        if LAYERS.fullmatch(key) and type(value) is int:
            return len(self.layers)
        if key in TOKENS and (value is None or isinstance(value, int | list)):
            return TOKENS[key]
        if isinstance(value, list | tuple):
            return self._list(key, value)
        if type(value) is int:
            return self._size(key, value)
        return self._filled(key) if value in (None, {}) and self.fill else value

    def _list(self, key: str, value: Any) -> Any:
        if len(value) == self.total and list(value) == list(range(self.total)):
            return list(range(len(self.layers)))
        if len(value) == self.total:
            kept = [value[i] for i in self.layers]
            return [self._size(key, v) if type(v) is int else v for v in kept]
        if value and all(type(v) is int for v in value) and sum(value) == self.width:
            return [v * HIDDEN // self.width for v in value]
        return value

    def _size(self, key: str, value: int) -> int:
        if key.endswith("kv_shared_layers"):
            return len(self.layers) // (1 if value == self.total else 2) if value else 0
        if (
            "expand" in self.values or "mamba_expand" in self.values
        ):  # heads of a state: their widths are tied
            expand = self.values.get("expand", self.values.get("mamba_expand"))
            if re.fullmatch(r"mamba_(n|num)_heads|num_heads", key):
                return int(expand * HIDDEN // 24)
            if key == "mamba_d_ssm":
                return int(expand * HIDDEN)
            if re.fullmatch(r"mamba_(d_head|headdim|head_dim)|head_dim", key):
                return 24
        if key == "head_dim" and value == self.values.get("qk_rope_head_dim"):
            key = "qk_rope_head_dim"
        for pattern, size in SIZES:
            if re.fullmatch(pattern, key):
                return self._by_rule(key, value, size)
        return value

    def _by_rule(self, key: str, value: int, size: int) -> int:
        # One that names what goes out, or the width of all parts, is no multiple of this part's own.
        is_own = size == HIDDEN and "out" not in key and "global" not in key
        if is_own and value > self.width and value % self.width == 0:
            return HIDDEN * value // self.width
        if size == KV_HEADS:
            heads = {v for k, v in self.values.items() if re.fullmatch(r"n_heads?|num_(attention_)?heads", k)}
            return 1 if value == 1 else HEADS if value in heads else min(value, size)
        return value if 0 <= value <= size else size

    def _filled(self, key: str) -> Any:
        if key == "layer_types":
            other = "conv" if any(name.startswith("conv") for name in self.values) else "sliding_attention"
            return [("full_attention", other)[i % 2] for i in range(len(self.layers))]
        if key == "rope_parameters":
            kinds = self.values.get("layer_types")
            plain = {"rope_type": "default", "rope_theta": 10000.0}
            return {kind: dict(plain) for kind in dict.fromkeys(kinds)} if kinds else None
        if key.startswith("default_"):  # one of a list of choices
            return next(iter(self.values.get(f"{key.removeprefix('default_')}s") or ()), None)
        for pattern, value in (*SIZES, *NEEDED):
            if re.fullmatch(pattern, key) and "token_id" not in key:
                return value
        return None


def _values(config: PretrainedConfig) -> dict[str, Any]:
    """The fields that are the type's own, under the names that its constructor takes."""
    common = set(vars(PretrainedConfig())) - set(TOKENS)
    held = {name for name in vars(config) if not name.startswith("_")} - common
    held |= set(inspect.signature(type(config).__init__).parameters) - {"self", "kwargs", "args"}
    values = {}
    for name in sorted(held - set(config.attribute_map) - {"is_encoder_decoder"}):
        with contextlib.suppress(Exception):  # a property may refuse to answer
            values[name] = getattr(config, name)
    return values
