"""Tiny models as they lie on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from tests.compiler.checkpoint.models import MERGES, SIZES, WORDS, add_value
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from pagedc.compiler.trace import quiet


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., tuple[Path, torch.nn.Module]]:
    """Write a model with random weights as a Hugging Face directory; returns it and the model."""

    def write(
        config: PretrainedConfig, dtype: torch.dtype = torch.float32, **options: Any
    ) -> tuple[Path, Any]:
        torch.manual_seed(0)
        with quiet():
            model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
            directory = tmp_path / config.model_type
            model.save_pretrained(directory, **options)
        return directory, model

    return write


@pytest.fixture
def llama() -> LlamaConfig:
    return LlamaConfig(**SIZES)


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Write a GGUF file: metadata, tensors (quantized to their type, else float32), a small vocabulary."""

    def write(
        metadata: dict[str, Any],
        tensors: dict[str, Any],
        types: dict[str, Type] | None = None,
        architecture: str = "llama",
        vocabulary: dict[str, Any] | None = None,
    ) -> Path:
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        words: dict[str, Any] = {
            "model": "gpt2",
            "pre": "smollm",
            "tokens": WORDS,
            "merges": MERGES,
            "token_type": [3] * 3 + [1] * 93,
        }
        ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
        for key, value in ({**words, **ids} if vocabulary is None else vocabulary).items():
            metadata = metadata | {f"tokenizer.ggml.{key}": value}
        for key, value in metadata.items():
            add_value(writer, key, value)
        for name, tensor in tensors.items():
            values = tensor.detach().float().numpy() if isinstance(tensor, torch.Tensor) else tensor
            kind = (types or {}).get(name, Type.F32)
            if kind is not Type.F32 and values.dtype != np.uint8:  # bytes are blocks already
                values = gguf.quants.quantize(values, kind)
            writer.add_tensor(name, np.ascontiguousarray(values), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
