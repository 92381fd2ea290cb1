from typing import Any

import pytest
import torch
from tests.kernels.triton.device import DEVICE

from pagedc.kernels.triton import (
    attention_decode,
    attention_prefill,
    embedding,
    grouped_linear,
    kv_cache,
    linear,
    sampling,
)
from pagedc.kernels.triton.attention import AttentionSpec
from pagedc.kernels.triton.kv_cache import launch_store_kv, store_kv_kernel
from pagedc.kernels.triton.launch import Launch, argument_type
from pagedc.kernels.triton.resources import Resources

ATTENTION = AttentionSpec(
    num_heads=32, num_kv_heads=8, head_dim=128, v_head_dim=128, block_size=16, kv_dtype="bfloat16", scale=0.1
)
SPECS: list[tuple[Any, Any]] = [
    (kv_cache, ATTENTION),
    (attention_decode, ATTENTION),
    (attention_prefill, ATTENTION),
    (linear, linear.LinearSpec(n=4096, k=4096, weight_format="bf16")),
    (linear, linear.LinearSpec(n=4096, k=4096, weight_format="int4_g32_min")),
    (embedding, embedding.EmbeddingSpec(vocab_size=9, width=4096, weight_format="bf16")),
    (sampling, sampling.SamplingSpec(vocab_size=128256, max_logprobs=20)),
    (
        grouped_linear,
        grouped_linear.GroupedSpec(experts=8, n=64, k=64, top_k=2, shared_x=True, weight_format="bf16"),
    ),
]


@pytest.mark.parametrize(("module", "spec"), SPECS)
@pytest.mark.parametrize("bucket", [1, 64, 4096])
def test_candidates_are_distinct_and_name_the_constants_of_the_default(
    module: Any, spec: Any, bucket: int
) -> None:
    candidates = module.candidates(spec, bucket)
    names = {name for name, _ in module.defaults(spec, bucket).constexprs}
    assert len(set(candidates)) == len(candidates) > 1
    # A candidate that is another kernel names what is its own besides.
    assert all({name for name, _ in candidate.constexprs} >= names for candidate in candidates)


def test_a_launch_says_types_constants_and_alignment() -> None:
    rows = torch.empty(2, 2049, dtype=torch.bfloat16, device="meta")
    cache = torch.empty(ATTENTION.k_shape(3), dtype=torch.bfloat16, device="meta")
    slots = torch.empty(2, dtype=torch.int64, device="meta")
    config = kv_cache.defaults(ATTENTION, 2)
    (launch,) = launch_store_kv(ATTENTION, config, rows[:, :1024], rows[:, 1025:], slots, cache, cache)
    types = launch.signature()
    assert [types[name] for name in launch.pointers] == ["*bf16", "*bf16", "*i64", "*bf16", "*bf16"]
    assert types["K_STRIDE"] == types["PDL"] == "constexpr"
    assert launch.all_constexprs()["K_STRIDE"] == 2049
    assert set(launch.attributes()) == {(0,), (2,), (3,), (4,)}  # v starts at an odd element


def test_what_is_none_is_compiled_without() -> None:
    launch = Launch(store_kv_kernel, (1, 1, 1), {"k": torch.empty(1, device=DEVICE), "v": None})
    assert launch.signature()["v"] == "constexpr"
    assert launch.all_constexprs()["v"] is None
    assert launch.pointers == ["k"]


def test_a_value_that_is_no_argument_is_refused() -> None:
    assert [argument_type(value) for value in (7, 2**31, 0.5)] == ["i32", "i64", "fp32"]
    with pytest.raises(TypeError, match="'seven' cannot be"):
        argument_type("seven")


def test_a_program_fits_where_its_registers_and_shared_memory_do() -> None:
    resources = Resources(registers=128, spilled_bytes=0, shared_bytes=100 << 10, num_warps=4)
    assert resources.fits(80)
    assert not Resources(255, 0, 0, 16).fits(80)
    assert not Resources(128, 0, 200 << 10, 4).fits(80)
