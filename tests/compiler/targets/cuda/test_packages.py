"""Whole packages for a GPU, run without one: Triton's interpreter, the real engine, Hugging Face's logits.

Prompts are cut into chunks and share steps with tokens of other sequences, so that every kind of step occurs.
The device does nothing until it is waited for, so that steps are prepared before the last one's tokens exist.
"""

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from tests.compiler.families import save_model
from tests.compiler.targets.cuda.late_device import use_late_device
from tests.compiler.test_families import logits_of
from tests.kernels.triton.device import DEVICE
from transformers import AttentionInterface, AttentionMaskInterface

import pagedc
from pagedc.compiler.errors import OptionError
from pagedc.compiler.options import CompileOptions
from pagedc.compiler.quantize import round_to
from pagedc.compiler.targets.cuda.target import CudaTarget
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest, TokenEvent
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams

TOLERANCE = 1e-4  # of the largest logit
VOCAB_SIZE = 67
PROMPTS = (
    3,
    4,
    9,
)  # tokens of each: seven fit a step, then some decode while one is prefilled, then all decode
SMALL = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
WINDOWS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen3": {**SMALL, "head_dim": 24},
    "gemma2": {**SMALL, **WINDOWS},
    "gemma3_text": {**SMALL, **WINDOWS},
    "mixtral": {**SMALL, "num_local_experts": 4},
    "gpt2": {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2},
    "bloom": {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "n_layer": 2},  # ALiBi
    "llama4_text": {  # chunks
        **SMALL,
        "intermediate_size_mlp": 48,
        "head_dim": 8,
        "attention_chunk_size": 5,
        "no_rope_layers": [1, 0],
        "moe_layers": [],
    },
    "lfm2": {**SMALL, "num_hidden_layers": 1, "layer_types": ["conv"], "conv_L_cache": 3},
    "mamba2": {  # nothing attends
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 12,
        "n_groups": 2,
        "num_hidden_layers": 1,
        "chunk_size": 16,
    },
    "qwen3_next": {  # the gated delta rule, and attention
        **SMALL,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 12,
        "linear_value_head_dim": 16,
        "head_dim": 16,
        "num_experts": 0,
        "mlp_only_layers": [0, 1],
    },
}

pytestmark = [
    # A lane that is switched off computes with zeros: 1 / 0 there is nobody's.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.skipif(DEVICE != "cpu", reason="this process compiles kernels, so it cannot interpret them"),
]


def compiled(name: str, directory: Path) -> tuple[Path, Any]:
    model = save_model(name, directory / "model", **CONFIGS[name])
    return recompiled(directory / "model", directory / "package"), model


def recompiled(
    model: Path,
    output: Path,
    quantize: Literal["auto", "int4"] = "auto",
    kv_cache_dtype: Literal["auto", "fp8"] = "auto",
) -> Path:
    return pagedc.compile(
        model,
        output,
        quantize=quantize,
        kv_cache_dtype=kv_cache_dtype,
        target="cuda:interpreter",
        dtype="float32",
        max_num_seqs=3,
        max_num_batched_tokens=7,
        max_model_len=32,
    )


def run_engine(package: Path, prompts: dict[str, list[int]], params: SamplingParams) -> list[TokenEvent]:
    opened = Package.open(package)
    config = resolve(opened.manifest, EngineOptions(memory=2**24))
    executor = open_executor(opened, config)
    try:
        engine = Engine(executor, config, [])
        for request_id, prompt in prompts.items():
            engine.add_request(AddRequest(request_id, prompt, params))
        events = []
        while engine.has_work:
            events += engine.step()
        return events
    finally:
        executor.close()


@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_hugging_face(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, model = compiled(name, tmp_path)
    devices = use_late_device(monkeypatch)
    check(package, model)
    assert devices[0].most_marks == 2
    Package.open(package, verify=True)  # running it has left no trace in it


def test_quantised_experts_agree_with_a_module_of_their_values(tmp_path: Path) -> None:
    # Every expert is chosen: a rounding of what the router reads must not choose another one.
    changes = {"intermediate_size": 64, "num_experts_per_tok": 4}
    model = save_model("mixtral", tmp_path / "model", **(CONFIGS["mixtral"] | changes))
    package = recompiled(tmp_path / "model", tmp_path / "package", "int4")
    for name, parameter in model.named_parameters():
        held = "int8_g32" if "embed" in name or "lm_head" in name else "int4_g32_min"
        if parameter.ndim > 1 and not name.endswith(".gate.weight"):  # a router stays as it is
            rows = round_to(parameter.detach().flatten(0, -2), held)
            parameter.data = rows.view(parameter.shape)
    check(package, model, 2e-2)  # what such linears read is bfloat16


def test_an_architecture_without_8_bit_floats() -> None:
    options = CompileOptions(model="m", output=Path("m"), target="cuda:sm_80", kv_cache_dtype="fp8")
    with pytest.raises(OptionError, match="sm_80 does not have"):
        CudaTarget(options)


def test_a_kv_cache_of_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, model = compiled("llama", tmp_path)
    package = recompiled(tmp_path / "model", tmp_path / "fp8", kv_cache_dtype="fp8")
    caches = [Package.open(each).manifest.kv_cache for each in (whole, package)]
    assert [cache.dtype for cache in caches] == ["float32", "fp8"]
    assert caches[0].bytes_per_block == 4 * caches[1].bytes_per_block
    for interface in (AttentionInterface, AttentionMaskInterface):
        monkeypatch.setitem(interface._global_mapping, "rounded", interface()["sdpa"])
    monkeypatch.setitem(AttentionInterface._global_mapping, "rounded", rounded_attention)
    model.config._attn_implementation = "rounded"
    check(package, model, 5e-3)  # what lies beside the edge of two codes may fall on either side


def rounded_attention(module: Any, query: Any, key: Any, value: Any, *mask: Any, **options: Any) -> Any:
    """Of keys and values that have been in a cache of e4m3."""
    return AttentionInterface()["sdpa"](module, query, cached(key), cached(value), *mask, **options)


def cached(x: torch.Tensor) -> torch.Tensor:
    """As Triton converts it: its interpreter cuts where a GPU rounds."""
    values = x.contiguous()
    codes = torch.empty_like(values, dtype=torch.float8_e4m3fn)
    convert_kernel[(values.numel(),)](values, codes)
    return codes.to(x.dtype)


@triton.jit
def convert_kernel(values, codes):
    at = tl.program_id(0)
    tl.store(codes + at, tl.load(values + at).to(codes.dtype.element_ty))


def check(package: Path, model: Any, tolerance: float = TOLERANCE) -> None:
    """Tokens and logprobs of several requests at once are the module's."""
    token_ids = np.random.default_rng(0).integers(3, VOCAB_SIZE, max(PROMPTS)).tolist()
    prompts = {str(length): token_ids[:length] for length in PROMPTS}
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    events = run_engine(package, prompts, params)
    for request_id, prompt in prompts.items():
        mine = [event for event in events if event.request_id == request_id]
        generated = [token_id for event in mine for token_id in event.token_ids]
        whole = prompt + generated
        logits = logits_of(model, whole)
        assert generated == logits[len(prompt) - 1 : -1].argmax(1).tolist()
        logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        reported = [p.logprob for p in (mine[0].prompt_logprobs or [])[1:] if p is not None]
        reported += [p.logprob for event in mine for p in event.logprobs]
        expected = logprobs[np.arange(len(whole) - 1), whole[1:]]
        np.testing.assert_allclose(reported, expected, atol=tolerance * np.abs(logits).max())


def test_two_compiles_give_the_same_bytes(tmp_path: Path) -> None:
    first, _ = compiled("llama", tmp_path)
    second = recompiled(tmp_path / "model", tmp_path / "again" / "package")
    manifests = [Package.open(package).manifest for package in (first, second)]
    assert manifests[0] == manifests[1]
    assert {"model.py", "kernels/rows.py", "kernels/kernels.json"} <= set(manifests[0].files)


def test_a_package_carries_what_it_imports(tmp_path: Path) -> None:
    package, _ = compiled("llama", tmp_path)
    for path in [*package.rglob("*.py")]:
        assert "pagedc." not in path.read_text().replace("pagedc.kernels.kernels", ""), path.name
    assert not any(name.startswith("pagedc_package") and "driver" in name for name in sys.modules)
