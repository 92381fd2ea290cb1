import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from tests.compiler.checkpoint.models import SIZES, llama_metadata, permute
from tests.compiler.checkpoint.test_gguf_blocks import any_blocks
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import pagedc
from pagedc.compiler.checkpoint import Checkpoint, open_checkpoint
from pagedc.compiler.checkpoint.base import QuantizedTensor
from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.compiler.layers import compare_modules
from pagedc.compiler.reference import Reference, rounding_of
from pagedc.compiler.report import load_manifest
from pagedc.compiler.trace import quiet

WriteGguf = Callable[..., Path]
EXPERTS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}


def build(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    with quiet():
        model = AutoModelForCausalLM.from_config(config).eval()
    for name, tensor in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(tensor, 1, 0.1)
    return model


def gguf_tensors(model: Any, architecture: str) -> dict[str, torch.Tensor]:
    """The model's tensors as llama.cpp's converter writes them: renamed, a llama's q and k permuted."""
    config = model.config
    key = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(key, config.num_hidden_layers)
    tensors = {}
    for name, tensor in model.state_dict().items():
        base, dot, suffix = (
            name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, ".", "weight")
        )
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name.endswith("gate_up_proj"):
            layer = name.split(".")[2]
            gate, up = tensor.chunk(2, dim=1)
            tensors |= {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
            continue
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = permute(
                tensor, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            )
        tensors[f"{names.get_name(base)}{dot}{suffix}"] = tensor
    return tensors


def as_floats(value: torch.Tensor | QuantizedTensor) -> torch.Tensor:
    return value.dequantize() if isinstance(value, QuantizedTensor) else value


@pytest.mark.parametrize("tied", [False, True])
def test_llama_in_float32_is_the_model(write_gguf: WriteGguf, tied: bool) -> None:
    model = build(LlamaConfig(**SIZES, tie_word_embeddings=tied, attention_bias=True))
    path = write_gguf(llama_metadata(model.config), gguf_tensors(model, "llama"))
    # transformers' table has no word for the biases of llama: they must not be dropped in silence
    with pytest.raises(CheckpointError, match="tensors have no place in a llama"):
        open_checkpoint(str(path))
    model = build(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    checkpoint = open_checkpoint(str(write_gguf(llama_metadata(model.config), gguf_tensors(model, "llama"))))
    state = model.state_dict()
    assert set(checkpoint.names()) == set(state)
    assert checkpoint.config.tie_word_embeddings == tied
    assert (checkpoint.dtype, checkpoint.quantization, checkpoint.name) == ("float32", "none", "model")
    for name, tensor in state.items():
        assert torch.equal(as_floats(checkpoint.read(name)), tensor), name
        assert checkpoint.shape(name) == tuple(tensor.shape)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q8_0])
def test_blocks_are_kept_and_their_rows_put_back(write_gguf: WriteGguf, kind: Type) -> None:
    model = build(LlamaConfig(**SIZES))
    tensors = gguf_tensors(model, "llama")
    types = {name: kind for name, tensor in tensors.items() if tensor.dim() == 2}
    checkpoint = open_checkpoint(str(write_gguf(llama_metadata(model.config), tensors, types)))
    assert (checkpoint.dtype, checkpoint.quantization) == ("bfloat16", "gguf")
    for name, tensor in model.state_dict().items():
        read = checkpoint.read(name)
        assert isinstance(read, QuantizedTensor) == (tensor.dim() == 2)
        expected = tensor.numpy()
        if tensor.dim() == 2:  # a row's blocks do not depend on where the row lies
            expected = gguf.quants.dequantize(gguf.quants.quantize(expected, kind), kind)
        assert torch.equal(as_floats(read), torch.from_numpy(expected)), name


@pytest.mark.parametrize(
    ("architecture", "config", "metadata"),
    [
        ("qwen2", Qwen2Config(**SIZES), {}),
        ("qwen3", Qwen3Config(**SIZES, head_dim=16), {}),
        ("qwen3moe", Qwen3MoeConfig(**SIZES, head_dim=16, num_experts=4, moe_intermediate_size=32), EXPERTS),
    ],
)
def test_other_architectures_by_the_tables(
    write_gguf: WriteGguf, architecture: str, config: Any, metadata: dict[str, Any]
) -> None:
    if not hasattr(config, "head_dim"):
        config.head_dim = config.hidden_size // config.num_attention_heads
    model = build(config)
    extra = {f"{architecture}.{key}": value for key, value in metadata.items()}
    path = write_gguf(
        llama_metadata(config, architecture) | extra,
        gguf_tensors(model, architecture),
        architecture=architecture,
    )
    checkpoint = open_checkpoint(str(path))
    assert set(checkpoint.names()) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(as_floats(checkpoint.read(name)), tensor), name


def test_norms_stored_off_by_one_are_put_back(write_gguf: WriteGguf) -> None:
    config = Gemma2Config(**SIZES, head_dim=16)
    model = build(config)
    tensors = gguf_tensors(model, "gemma2")
    stored = {name: tensor + 1 if "norm" in name else tensor for name, tensor in tensors.items()}
    types = {name: Type.Q4_0 for name, tensor in stored.items() if tensor.dim() == 2}
    checkpoint = open_checkpoint(
        str(write_gguf(llama_metadata(config, "gemma2"), stored, types, architecture="gemma2"))
    )
    for name, tensor in model.state_dict().items():
        read = checkpoint.read(name)
        assert isinstance(read, QuantizedTensor) == (tensor.dim() == 2)
        if tensor.dim() == 1:
            torch.testing.assert_close(read, tensor)


def test_gemma3_of_text(write_gguf: WriteGguf) -> None:
    config = Gemma3TextConfig(**SIZES, head_dim=16)
    model = build(config)
    tensors = gguf_tensors(model, "gemma3")
    stored = {name: tensor + 1 if "norm" in name else tensor for name, tensor in tensors.items()}
    path = write_gguf(llama_metadata(config, "gemma3"), stored, architecture="gemma3")
    check_same(open_checkpoint(str(path)), model)


def test_phi3_with_its_fused_projections(write_gguf: WriteGguf) -> None:
    config = Phi3Config(**SIZES, pad_token_id=0)
    config.head_dim = 8
    model = build(config)
    path = write_gguf(llama_metadata(config, "phi3"), gguf_tensors(model, "phi3"), architecture="phi3")
    check_same(open_checkpoint(str(path)), model)


@pytest.mark.parametrize("kind", [Type.F32, Type.Q8_0])
def test_gpt2_whose_module_holds_its_matrices_transposed(write_gguf: WriteGguf, kind: Type) -> None:
    config = GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=96, n_positions=128)
    model = build(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 2)
    tensors = {}
    for name, tensor in model.state_dict().items():
        base, _, suffix = name.rpartition(".")
        is_matrix = base.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc") and suffix == "weight"
        if name != "lm_head.weight":
            stored = tensor.T.contiguous() if is_matrix else tensor
            tensors[f"{names.get_name(base)}.{suffix}"] = stored
    types = {name: kind for name, tensor in tensors.items() if "blk" in name and tensor.dim() == 2}
    values = {"context_length": 128, "embedding_length": 32, "block_count": 2, "feed_forward_length": 128}
    values |= {"attention.head_count": 4}
    metadata: dict[str, Any] = {f"gpt2.{key}": value for key, value in values.items()}
    metadata["gpt2.attention.layer_norm_epsilon"] = 1e-5
    checkpoint = open_checkpoint(str(write_gguf(metadata, tensors, types, architecture="gpt2")))
    check_same(checkpoint, model, tolerance=0 if kind is Type.F32 else 0.002)


def check_same(checkpoint: Checkpoint, model: Any, tolerance: float = 1e-6) -> None:
    assert set(checkpoint.names()) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(as_floats(checkpoint.read(name)), tensor, rtol=0, atol=tolerance)


def test_merged_experts_keep_their_blocks(write_gguf: WriteGguf) -> None:
    config = Qwen3MoeConfig(**SIZES, head_dim=16, num_experts=4, moe_intermediate_size=32)
    model = build(config)
    tensors = gguf_tensors(model, "qwen3moe")
    types = {name: Type.Q4_0 for name in tensors if "_exps" in name}
    metadata = {f"qwen3moe.{key}": value for key, value in EXPERTS.items()}
    path = write_gguf(llama_metadata(config, "qwen3moe") | metadata, tensors, types, architecture="qwen3moe")
    found = open_checkpoint(str(path)).read("model.layers.0.mlp.experts.gate_up_proj")
    assert isinstance(found, QuantizedTensor)
    halves = [tensors[f"blk.0.ffn_{name}_exps.weight"].numpy() for name in ("gate", "up")]
    blocks = [gguf.quants.quantize(half, Type.Q4_0) for half in halves]
    expected = [gguf.quants.dequantize(block, Type.Q4_0) for block in blocks]
    assert np.array_equal(found.dequantize().numpy(), np.concatenate(expected, axis=1))


def test_a_package_holds_the_blocks_of_each_type(write_gguf: WriteGguf, tmp_path: Path) -> None:
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    model = build(LlamaConfig(**sizes, max_position_embeddings=128))
    tensors: dict[str, Any] = gguf_tensors(model, "llama")
    types = {
        "token_embd.weight": Type.Q6_K,
        "blk.0.attn_q.weight": Type.Q4_K,
        "blk.0.attn_k.weight": Type.Q5_K,
        "blk.0.attn_v.weight": Type.Q3_K,
        "blk.0.attn_output.weight": Type.Q2_K,
        "blk.0.ffn_gate.weight": Type.Q5_0,
        "blk.0.ffn_up.weight": Type.Q5_1,
    }
    for name, kind in types.items():
        if gguf.GGML_QUANT_SIZES[kind][0] == 256:
            tensors[name] = any_blocks(kind, tuple(tensors[name].shape), deviation=3e-4)
    path = write_gguf(llama_metadata(model.config), tensors, types)
    checkpoint = open_checkpoint(str(path))
    package = pagedc.compile(path, tmp_path / "package", threads=1)
    formats = {weight["format"] for weight in json.loads((package / "manifest.json").read_text())["weights"]}
    assert formats >= {
        "int8_g16_i8",
        "int4_g32_min_i8",
        "int8_g32_min_i8",
        "int4_g16_i8",
        "int4_g16_min_i8",
        "int8_g32_min",
    }
    manifest = load_manifest(package)
    reference = Reference(checkpoint, rounding_of(manifest))
    modules = compare_modules(package, manifest, checkpoint, reference, list(range(3, 23)))
    assert len(modules) == 14
    assert max(module.error for module in modules) < 1e-5


def test_architectures_of_the_conversion_tables(write_gguf: WriteGguf) -> None:
    config = Lfm2Config(**SIZES, full_attn_idxs=[1], block_auto_adjust_ff_dim=False)
    config.head_dim = 8
    model = build(config)
    tensors = {
        name: tensor.squeeze(1) if "conv.conv" in name else tensor
        for name, tensor in gguf_tensors(model, "lfm2").items()
    }
    tensors = {name: tensor.squeeze(1) if tensor.dim() == 3 else tensor for name, tensor in tensors.items()}
    metadata = llama_metadata(config, "lfm2") | {
        "lfm2.attention.head_count_kv": [0, 2],
        "lfm2.shortconv.l_cache": 3,
    }
    checkpoint = open_checkpoint(str(write_gguf(metadata, tensors, architecture="lfm2")))
    assert set(checkpoint.names()) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(as_floats(checkpoint.read(name)), tensor), name


def test_unread_types_are_noticed(write_gguf: WriteGguf, caplog: pytest.LogCaptureFixture) -> None:
    model = build(LlamaConfig(**SIZES))
    tensors: dict[str, Any] = gguf_tensors(model, "llama")
    tensors["blk.0.ffn_up.weight"] = np.zeros((64, 18), np.uint8)
    path = write_gguf(llama_metadata(model.config), tensors, {"blk.0.ffn_up.weight": Type.IQ4_NL})
    checkpoint = open_checkpoint(str(path))
    assert "1 tensors of type IQ4_NL are read as float32" in caplog.text
    assert isinstance(checkpoint.read("model.layers.0.mlp.up_proj.weight"), torch.Tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blk.1.ffn_up.weight": None}, r"1 parameters missing, first model\.layers\.1\.mlp\.up_proj"),
        ({"blk.1.ffn_up.weight": torch.zeros(64, 64)}, r"\[64, 64\] in the file, \[64, 32\] by its config"),
        ({"blk.1.ffn_up.weight": torch.zeros(32, 64)}, r"\[32, 64\] in the file, \[64, 32\] by its config"),
        ({"blk.1.ssm_a": torch.zeros(4)}, r"1 tensors have no place in a llama, first blk\.1\.ssm_a"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    write_gguf: WriteGguf, change: dict[str, Any], message: str
) -> None:
    model = build(LlamaConfig(**SIZES))
    tensors = gguf_tensors(model, "llama") | change
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    path = write_gguf(llama_metadata(model.config), present)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path)).read("model.layers.1.mlp.up_proj.weight")


def test_a_part_of_a_model_is_refused(write_gguf: WriteGguf) -> None:
    path = write_gguf({"split.count": 3, "split.no": 0}, {"a": torch.zeros(4)})
    with pytest.raises(UnsupportedError, match="one of 3 parts"):
        open_checkpoint(str(path))


@pytest.mark.parametrize(
    "values",
    [
        {"block_count": 2**32 - 1},
        {"block_count": 0},
        {"block_count": "two"},
        {"attention.head_count": 0},
        {"attention.head_count_kv": 0},
        {"embedding_length": 0},
        {"embedding_length": 2**32 - 1},
        {"rope.freq_base": "fast"},
        {"attention.key_length": 0},
        {"attention.layer_norm_rms_epsilon": [1, 2]},
        {"rope.scaling.type": "evil"},
    ],
    ids=str,
)
def test_metadata_that_makes_no_model_is_one_line(write_gguf: WriteGguf, values: dict[str, Any]) -> None:
    model = build(LlamaConfig(**SIZES))
    metadata = llama_metadata(model.config) | {f"llama.{key}": value for key, value in values.items()}
    path = write_gguf(metadata, gguf_tensors(model, "llama"))
    with pytest.raises((CheckpointError, UnsupportedError)) as error:
        open_checkpoint(str(path))
    assert "\n" not in str(error.value)


def test_unknown_architecture_is_refused(write_gguf: WriteGguf) -> None:
    path = write_gguf({"nothing.block_count": 2}, {"a": torch.zeros(4)}, architecture="nothing")
    with pytest.raises(UnsupportedError, match="no config for architecture 'nothing'") as error:
        open_checkpoint(str(path))
    assert "\n" not in str(error.value)


def test_rope_scaling_is_read(write_gguf: WriteGguf) -> None:
    model = build(LlamaConfig(**SIZES))
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = write_gguf(llama_metadata(model.config) | scaling, gguf_tensors(model, "llama"))
    rope = open_checkpoint(str(path)).config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("linear", 4.0, 10000.0)


def test_rope_factors_are_recognised_or_refused(write_gguf: WriteGguf) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(**{**SIZES, "hidden_size": 64, "head_dim": 16}, rope_parameters=rope)
    model = build(config)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 10000.0 ** (torch.arange(0, 16, 2) / 16)
    tensors = gguf_tensors(model, "llama") | {"rope_freqs.weight": plain / scaled}
    checkpoint = open_checkpoint(str(write_gguf(llama_metadata(config), tensors)))
    assert checkpoint.config.rope_parameters == rope
    tensors["rope_freqs.weight"] = torch.linspace(1, 3, 8)
    with pytest.raises(UnsupportedError, match="rotary factors of an unknown rule"):
        open_checkpoint(str(write_gguf(llama_metadata(config), tensors)))
