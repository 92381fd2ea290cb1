"""A transformers config from the metadata of a GGUF file.

transformers' own tables do it: they are given a copy of the header without the vocabulary, so that no
architecture is named here and no count of the file's reaches a reader that would trust it.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFValueType, GGUFWriter
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pagedc.compiler.checkpoint.gguf_blocks import read_tensor
from pagedc.compiler.checkpoint.gguf_file import GGUFFile
from pagedc.compiler.checkpoint.module import check_num_layers
from pagedc.compiler.checkpoint.shards import first_line
from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.compiler.trace import quiet

# Sizes that the tables leave at the default of some configs: the file's own are right wherever the field is.
SIZES = {
    "context_length": "max_position_embeddings",
    "attention.key_length": "head_dim",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
TOKENS = "tokenizer.ggml.tokens"
EMBEDDING = "token_embd.weight"
ROPE_FACTORS = "rope_freqs.weight"
# What llama.cpp's converter had before it wrote the factors: the same in every published model that has them.
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def read_gguf_config(file: GGUFFile) -> PretrainedConfig:
    """Raises UnsupportedError for an architecture that transformers has no table for."""
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise CheckpointError(f"{file.path}: no general.architecture in it")
    check_num_layers(str(file.path), file.metadata.get(f"{architecture}.block_count"))
    with tempfile.TemporaryDirectory() as folder:
        _write_header(file, architecture, Path(folder, "header.gguf"))
        try:
            with quiet():
                config = AutoConfig.from_pretrained(folder, gguf_file="header.gguf", local_files_only=True)
        except Exception as error:  # the tables raise whatever a missing or odd value makes them raise
            raise UnsupportedError(
                f"{file.path}: no config for architecture {architecture!r}: {first_line(error)}"
            ) from error
    config._name_or_path = ""
    _set_sizes(config, file, architecture)
    _set_rope(config, file, architecture)
    return config


def _write_header(file: GGUFFile, architecture: str, path: Path) -> None:
    """The metadata without lists of strings, and the names of the tensors, each with one element."""
    writer = GGUFWriter(path, architecture)
    values = {
        f"{architecture}.vocab_size": len(file.metadata.get("tokenizer.ggml.tokens", ()))
    } | file.metadata
    for key, value in values.items():
        if key.startswith("general.") or (isinstance(value, list) and key.startswith("tokenizer.")):
            continue  # a general.name can make the tables change the architecture
        if isinstance(value, list) and not value:
            continue
        kind = GGUFValueType.ARRAY if isinstance(value, list) else _kind(value)
        writer.add_key_value(
            key, _plain(value), kind, sub_type=_kind(value[0]) if isinstance(value, list) else None
        )
    writer.add_array(TOKENS, ["the vocabulary"])  # some tables count it; the embedding's rows are what counts
    for name in file.tensors:
        writer.add_tensor(name, np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(value: Any) -> GGUFValueType:
    if isinstance(value, bool):
        return GGUFValueType.BOOL
    if isinstance(value, int):
        return GGUFValueType.INT64 if value < 0 else GGUFValueType.UINT64
    return GGUFValueType.FLOAT64 if isinstance(value, float) else GGUFValueType.STRING


def _plain(value: Any) -> Any:
    """Floats as the decimal that was meant: float32 1e-5 reads as 9.999999747378752e-06."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _set_sizes(config: PretrainedConfig, file: GGUFFile, architecture: str) -> None:
    for key, field in SIZES.items():
        size = file.metadata.get(f"{architecture}.{key}")
        if isinstance(size, int) and hasattr(config, field):
            with contextlib.suppress(AttributeError):  # some configs derive it from others
                setattr(config, field, size)
    if EMBEDDING in file.tensors:
        config.vocab_size = file.tensors[EMBEDDING].shape[0]
        if (config.pad_token_id or 0) >= config.vocab_size:  # a default of the config's class
            config.pad_token_id = None


def _set_rope(config: PretrainedConfig, file: GGUFFile, architecture: str) -> None:
    """Scaling of rotary positions, which the tables leave out for most architectures."""
    rope: dict[str, Any] = dict(getattr(config, "rope_parameters", None) or {})
    scaling = file.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if ROPE_FACTORS in file.tensors:
        config.rope_parameters = rope | _llama3_rope(config, rope, file)
    elif rope.get("rope_type", "default") != "default" or scaling == "none":
        return
    elif scaling in ("linear", "yarn"):
        rope |= {
            "rope_type": scaling,
            "factor": file.metadata.get(f"{architecture}.rope.scaling.factor", 1.0),
        }
        original = file.metadata.get(f"{architecture}.rope.scaling.original_context_length")
        if scaling == "yarn" and original:
            rope["original_max_position_embeddings"] = original
        config.rope_parameters = rope
    else:
        raise UnsupportedError(
            f"{file.path}: rope.scaling.type {scaling!r} is not supported; use the safetensors checkpoint"
        )


def _llama3_rope(config: PretrainedConfig, rope: dict[str, Any], file: GGUFFile) -> dict[str, Any]:
    """The parameters whose frequencies are those of the file's factors; refused where there are none."""
    factors = read_tensor(file, ROPE_FACTORS)
    if isinstance(factors, torch.Tensor) and "rope_theta" in rope:
        factors = factors.float().flatten()
        found = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3_ROPE}
        plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, 2 * len(factors), 2) / (2 * len(factors)))
        config.rope_parameters = rope | found
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        if scaled.shape == plain.shape and torch.allclose(plain / scaled, factors, rtol=1e-4):
            return found
    raise UnsupportedError(
        f"{file.path}: {ROPE_FACTORS} holds rotary factors of an unknown rule; use the safetensors checkpoint"
    )
