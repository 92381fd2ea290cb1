"""Each method of quantised checkpoints, written as it documents itself: read back, and run."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.compiler.checkpoint import packing_methods as write
from tests.compiler.test_families import logits_of, teacher_forced
from transformers import AutoModelForCausalLM, GptOssConfig, LlamaConfig, MixtralConfig

import pagedc
from pagedc.compiler.checkpoint import QuantizedTensor, open_checkpoint
from pagedc.compiler.checkpoint.put_together import as_floats
from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.compiler.trace import quiet

Writer = Callable[[str, int, int, np.random.Generator], write.Written]
SIZES: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROWS = "int8_g0 int8_g128_f32"  # a row of 128 is a group as well
GPTQ = {"quant_method": "gptq", "bits": 4}


def pack_config(kind: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", **weights}}
    return {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"group_0": group}}


# config, writer, format of ours ("" where it is expanded)
METHODS: dict[str, tuple[dict[str, Any], Writer, str]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, write.awq, "int4_g64_min_f32"),
    "gptq": (GPTQ, write.gptq, "int4_g32_min_f32"),
    "gptq_symmetric": (GPTQ, partial(write.gptq, symmetric=True, group=128), "int4_g128"),
    "gptq_v2": (
        GPTQ | {"checkpoint_format": "gptq_v2"},
        partial(write.gptq, form="gptq_v2"),
        "int4_g32_min_f32",
    ),
    "gptq_ordered": (GPTQ | {"desc_act": True}, partial(write.gptq, ordered=True), ""),
    "gptq_2": (GPTQ | {"bits": 2}, partial(write.gptq, bits=2, symmetric=True), "int4_g32"),
    "gptq_3": (GPTQ | {"bits": 3}, partial(write.gptq, bits=3), "int4_g32_min_f32"),
    "gptq_8": (GPTQ | {"bits": 8}, partial(write.gptq, bits=8, symmetric=True), "int8_g32"),
    "gptq_8_zeros": (GPTQ | {"bits": 8}, partial(write.gptq, bits=8, group=64), "int8_g64_min_f32"),
    "packed": (pack_config("pack-quantized"), write.pack_quantized, "int4_g128"),
    "packed_rows": (pack_config("pack-quantized"), partial(write.pack_quantized, group=None), "int4_g128"),
    "packed_zeros": (
        pack_config("pack-quantized", symmetric=False),
        partial(write.pack_quantized, symmetric=False, group=32),
        "int4_g32_min_f32",
    ),
    "packed_8": (
        pack_config("pack-quantized", num_bits=8),
        partial(write.pack_quantized, bits=8),
        "int8_g128",
    ),
    "int8": (pack_config("int-quantized", num_bits=8), write.int_quantized, ROWS),
    "float8": (pack_config("float-quantized", num_bits=8), write.float_quantized, ""),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
        partial(write.float_quantized, block=(64, 64), name="weight_scale_inv"),
        "",
    ),
    "fp8_cut_blocks": (
        {"quant_method": "fp8", "weight_block_size": [32, 256]},
        partial(write.float_quantized, block=(32, 256), name="weight_scale_inv"),
        "",
    ),
    "bnb_8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, write.bnb_int8, ROWS),
    "bnb_nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, write.bnb_nf4, ""),
    "bnb_nested": ({"quant_method": "bitsandbytes"}, partial(write.bnb_nf4, nested=True), ""),
}


def save_quantized(
    directory: Path, model: Any, quantization: dict[str, Any], writer: Writer
) -> dict[str, torch.Tensor]:
    """Write a model with its layers' matrices quantised; returns those as floats."""
    model.save_pretrained(directory)
    stored, weights = load_file(directory / "model.safetensors"), {}
    rng = np.random.default_rng(0)
    for name in [name for name in stored if "_proj.weight" in name or ".w" in name.rpartition(".")[0]]:
        tensors, made = writer(name.removesuffix("weight"), *stored.pop(name).shape, rng)
        stored |= {key: tensor.contiguous() for key, tensor in tensors.items()}
        weights[name] = torch.from_numpy(np.ascontiguousarray(made))
    save_file(stored, directory / "model.safetensors")
    write_config(directory, quantization_config=quantization)
    return weights


def write_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def make_model(config: Any) -> Any:
    torch.manual_seed(0)
    with quiet():
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", METHODS)
def test_reads_what_the_method_means(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quantization, writer, held = METHODS[name]
    weights = save_quantized(tmp_path, make_model(LlamaConfig(**SIZES)), quantization, writer)
    with caplog.at_level(logging.WARNING):
        checkpoint = open_checkpoint(str(tmp_path))
    assert (checkpoint.quantization, checkpoint.dtype) == (quantization["quant_method"], "bfloat16")
    assert len(weights) == 7
    for key, expected in weights.items():
        found = checkpoint.read(key)
        assert (found.format if isinstance(found, QuantizedTensor) else "") in (held.split() or [""])
        # One rounding, of a scale divided or of a sum: everything else is exact.
        torch.testing.assert_close(as_floats(found), expected, rtol=3e-7, atol=1e-9)
    assert ("7 matrices are expanded to bfloat16" in caplog.text) == (held == "")


def test_experts_one_by_one_stay_integers(tmp_path: Path) -> None:
    model = make_model(MixtralConfig(**SIZES, num_local_experts=3))
    weights = save_quantized(tmp_path, model, *METHODS["awq"][:2])
    checkpoint = open_checkpoint(str(tmp_path))
    stem = "model.layers.0.block_sparse_moe.experts"
    found = checkpoint.read("model.layers.0.mlp.experts.gate_up_proj")
    assert isinstance(found, QuantizedTensor)
    assert found.format == "int4_g64_min_f32"
    for expert in range(3):
        halves = [weights[f"{stem}.{expert}.{name}.weight"] for name in ("w1", "w3")]
        torch.testing.assert_close(found.dequantize()[expert], torch.cat(halves), rtol=3e-7, atol=1e-9)


def test_four_bit_floats_of_experts(tmp_path: Path) -> None:
    config = GptOssConfig(**SIZES, head_dim=32, num_local_experts=3, num_experts_per_tok=2)
    config.layer_types = ["full_attention"]
    model = make_model(config)
    model.save_pretrained(tmp_path)
    stored, expected = load_file(tmp_path / "model.safetensors"), {}
    for name in ("gate_up_proj", "down_proj"):
        key = f"model.layers.0.mlp.experts.{name}"
        experts, columns, rows = stored.pop(key).shape
        tensors, expected[key] = write.mxfp4(key, (experts, rows, columns), np.random.default_rng(0))
        stored |= tensors
    save_file(stored, tmp_path / "model.safetensors")
    write_config(tmp_path, quantization_config={"quant_method": "mxfp4"})
    checkpoint = open_checkpoint(str(tmp_path))
    for key, weights in expected.items():
        assert np.array_equal(as_floats(checkpoint.read(key)).float().numpy(), weights)


@pytest.mark.parametrize("name", ["awq", "int8"])
def test_a_package_runs_the_same_integers(name: str, tmp_path: Path) -> None:
    model = make_model(LlamaConfig(**SIZES))
    weights = save_quantized(tmp_path / "model", model, *METHODS[name][:2])
    model.load_state_dict(weights, strict=False)
    package = pagedc.compile(tmp_path / "model", tmp_path / "package", threads=1)
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["quantization"] == METHODS[name][0]["quant_method"]
    assert set(METHODS[name][2].split()) <= {weight["format"] for weight in manifest["weights"]}
    token_ids = np.random.default_rng(0).integers(3, 96, 40).tolist()
    expected = logits_of(model, token_ids)
    error = np.abs(teacher_forced(package, token_ids) - expected).max()
    assert error <= 0.02 * np.abs(expected).max()  # activations are bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "aqlm"}, "its weights are quantised by 'aqlm'; pagedc reads awq"),
        ({"quant_method": "awq", "bits": 3}, "bits is 3, pagedc reads 4"),
        ({"quant_method": "awq", "version": "gemv"}, "version is 'gemv'"),
        ({"quant_method": "gptq", "bits": 5}, "bits is 5"),
        (pack_config("nvfp4-pack-quantized"), "format is 'nvfp4-pack-quantized'"),
    ],
)
def test_what_is_not_read_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_quantized(tmp_path, make_model(LlamaConfig(**SIZES)), changes, write.awq)
    with pytest.raises(UnsupportedError, match=message) as error:
        open_checkpoint(str(tmp_path))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_missing_scales_are_named(tmp_path: Path) -> None:
    save_quantized(tmp_path, make_model(LlamaConfig(**SIZES)), *METHODS["awq"][:2])
    path = tmp_path / "model.safetensors"
    stored = load_file(path)
    del stored["model.layers.0.mlp.up_proj.scales"]
    save_file(stored, path)
    with pytest.raises(CheckpointError, match=r"mlp\.up_proj\.weight: its scales are missing"):
        open_checkpoint(str(tmp_path))
