"""What a package is measured with: rounded weights, tokens, and a child process that may fail."""

import io
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console
from tests.compiler.packages import manifest
from transformers import LlamaConfig, LlamaForCausalLM

import pagedc
from pagedc.compiler.agreement import ROUNDED_FLOORS, Agreement
from pagedc.compiler.checkpoint import QuantizedTensor
from pagedc.compiler.errors import OptionError, PackageError
from pagedc.compiler.layers import Module
from pagedc.compiler.progress import SilentProgress
from pagedc.compiler.quantize import quantize
from pagedc.compiler.reference import rounding_of
from pagedc.compiler.verify import (
    Verification,
    print_verification,
    sequences_of,
    verification_as_dict,
    verify,
)
from pagedc.runtime.manifest import Weight, dump_manifest

THIRD = 1 / 3  # no bfloat16
BF16_THIRD = float(torch.tensor(THIRD).bfloat16())


def quantized() -> QuantizedTensor:
    codes = torch.full((1, 32), 9, dtype=torch.int8)  # 1 above the middle
    return QuantizedTensor(codes, torch.full((1, 1), THIRD, dtype=torch.float16), None, 32, 4)


@pytest.mark.parametrize(
    ("dtype", "quantization", "matrix", "vector", "blocks"),
    [
        ("float32", "none", THIRD, THIRD, float(torch.tensor(THIRD).half())),
        ("bfloat16", "none", BF16_THIRD, THIRD, float(torch.tensor(THIRD).half().bfloat16())),
        ("bfloat16", "gguf", BF16_THIRD, THIRD, float(torch.tensor(THIRD).half())),
    ],
)
def test_weights_are_rounded_as_the_package_rounds_them(
    dtype: str, quantization: str, matrix: float, vector: float, blocks: float
) -> None:
    floats = "f32" if dtype == "float32" else "bf16"
    held = [Weight("a|w", "", "int4_g32" if quantization == "gguf" else floats, [2, 32])]
    packed = msgspec.structs.replace(manifest(), dtype=dtype, quantization=quantization, weights=held)
    rounding = rounding_of(packed)
    for name, weight, expected in (
        ("other", torch.full((2, 32), THIRD), matrix),
        ("other", torch.full((32,), THIRD), vector),
        ("w", quantized(), blocks),
    ):
        found = rounding(name, weight)
        assert found.dtype == torch.float32
        assert torch.equal(found, torch.full_like(found, expected))


def test_weights_are_quantised_as_the_package_quantises_them() -> None:
    held = [Weight("embedding#int8_g32", "", "int8_g32", [2, 32])]
    packed = msgspec.structs.replace(manifest(), quantization="int4", weights=held)
    weight = torch.linspace(-1, 1, 64).view(2, 32)
    for name, held_in in (("embedding", "int8_g32"), ("w", "int4_g32_min")):
        found = rounding_of(packed)(name, weight)
        assert torch.equal(found, quantize(weight, held_in).dequantize())
        assert not torch.equal(found, weight.bfloat16().float())
        experts = rounding_of(packed)(name, torch.stack([weight, weight]))
        assert torch.equal(experts, torch.stack([found, found]))


def test_without_a_tokenizer_tokens_are_random_but_always_the_same(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, manifest(), 300)
    assert [len(sequence) for sequence in sequences] == [128, 128, 44]
    assert {token_id for sequence in sequences for token_id in sequence} <= set(range(96))
    assert sequences == sequences_of(tmp_path, manifest(), 300)


def test_one_token_alone_has_no_successor(tmp_path: Path) -> None:
    assert [len(sequence) for sequence in sequences_of(tmp_path, manifest(), 129)] == [128]
    short = msgspec.structs.replace(
        manifest(), limits=msgspec.structs.replace(manifest().limits, max_model_len=1)
    )
    with pytest.raises(OptionError, match="max_model_len of the package is 1"):
        sequences_of(tmp_path, short, 10)


def test_a_package_that_does_not_open_is_told_in_its_own_words(tmp_path: Path) -> None:
    model, package = tmp_path / "model", tmp_path / "out.pagedc"
    config = LlamaConfig(
        vocab_size=96, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(model)
    package.mkdir()
    (package / "manifest.json").write_bytes(
        dump_manifest(msgspec.structs.replace(manifest(), schema_version=99))
    )
    with pytest.raises(PackageError, match=r"does not run: .*schema.*99"):
        verify(package, str(model), SilentProgress(), num_tokens=20, threads=1)


def test_damaged_weights_are_named_and_the_module_that_holds_them(tmp_path: Path) -> None:
    model, name = tmp_path / "model", "model.layers.1.mlp.down_proj.weight"
    config = LlamaConfig(
        vocab_size=96, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(model)
    package = pagedc.compile(model, tmp_path / "out.pagedc", threads=1)
    assert verify(package, str(model), SilentProgress(), num_tokens=20, threads=1).shortfalls == []
    weights = package / "weights" / "model.safetensors"
    with weights.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        start = 8 + size + json.loads(file.read(size))[name]["data_offsets"][0]
        file.seek(start)
        value = file.read(1)
        file.seek(start)
        file.write(bytes([value[0] ^ 1]))  # too little for any output to depart
        file.flush()
        least = verify(package, str(model), SilentProgress(), num_tokens=20, threads=1)
        assert least.shortfalls == ["weights/model.safetensors is not what was compiled (sha256 differs)"]
        file.seek(start)
        file.write(np.full(16, 5, np.float32).tobytes())
    found = verify(package, str(model), SilentProgress(), num_tokens=20, threads=1)
    assert found.shortfalls[0] == least.shortfalls[0]
    assert "the first module that departs is model.layers.1.mlp.down_proj (" in found.shortfalls[-1]


def test_a_person_sees_each_figure_beside_its_floor() -> None:
    agreement = Agreement(2000, 0.9912, 0.0002, 27.17, 27.16, 0.05)
    found = Verification(Path("a.pagedc"), "a", agreement, ROUNDED_FLOORS, [Module("layers.0", 1e-6)])
    stream = io.StringIO()
    print_verification(Console(file=stream, width=100), found)
    for part in (
        "2000 tokens",
        "99.12%",
        "≥ 98%",
        "0.000200",
        "≤ 0.0008",
        "27.1700",
        "≤ 0.3%",
        "1.0e-06, layers.0",
    ):
        assert part in stream.getvalue()
    facts = verification_as_dict(found)
    assert facts["shortfalls"] == []
    assert facts["floors"] == {"top1_agreement": 0.98, "mean_kl": 0.0008, "perplexity_change": 0.003}


def test_the_first_departure_is_named() -> None:
    agreement = Agreement(2000, 0.5, 0.2, 27.17, 27.16, 0.05)
    modules = [Module("layers.0", 1e-6), Module("layers.1.mlp", 0.3), Module("layers.2", float("nan"))]
    found = Verification(Path("a.pagedc"), "a", agreement, ROUNDED_FLOORS, modules)
    assert found.shortfalls[-1] == "the first module that departs is layers.1.mlp (3.0e-01)"
    assert verification_as_dict(found)["modules"] == {"layers.0": 1e-6, "layers.1.mlp": 0.3, "layers.2": None}
    agreeing = found._replace(modules=modules[:1])
    why = "all 1 modules of its graph agree in float32, on its own weights: what departs is its program"
    assert agreeing.shortfalls[-1] == why
    of_others = found._replace(other_weights="gguf").shortfalls
    assert of_others[-2].startswith("its weights are quantised (gguf) and those of a are not")


def trembling(directory: Path) -> Path:
    """A model so sure of each token that rounding changes what it says."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
        model.model.norm.weight.fill_(1.5)
    model.bfloat16().save_pretrained(directory)
    return directory


def test_a_model_that_magnifies_rounding_has_floors_of_its_own(tmp_path: Path) -> None:
    model = trembling(tmp_path / "model")
    package = pagedc.compile(model, tmp_path / "out.pagedc", threads=1)
    found = verify(package, str(model), SilentProgress(), num_tokens=1000, threads=1)
    assert found.agreement.shortfalls(ROUNDED_FLOORS)
    assert found.in_bfloat16 is not None
    assert found.floors.mean_kl > ROUNDED_FLOORS.mean_kl
    # The perplexity of random tokens is left to chance.
    calm = found.agreement._replace(perplexity=found.agreement.reference_perplexity)
    assert found._replace(agreement=calm).shortfalls == []
    facts = verification_as_dict(found)
    assert facts["in_bfloat16"]["mean_kl"] > facts["mean_kl"]
    stream = io.StringIO()
    print_verification(Console(file=stream, width=200), found)
    assert "the model magnifies rounding" in stream.getvalue()
    broken = found._replace(agreement=found.agreement._replace(mean_kl=1.0))
    assert broken.shortfalls[-1].endswith("what departs is its program")
