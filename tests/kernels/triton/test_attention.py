"""Decode and prefill attention against the reference in float64."""

from dataclasses import replace

import numpy as np
import pytest
from tests.kernels.triton.paged import UNTOUCHED, Paged

from pagedc.kernels.triton import attention_decode, attention_prefill
from pagedc.kernels.triton.attention import AttentionSpec
from pagedc.kernels.triton.launch import config

TOLERANCE = {"float32": 2e-5, "float16": 3e-3}
GQA = AttentionSpec(
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    v_head_dim=64,
    block_size=16,
    kv_dtype="float32",
    scale=0.11,
    split_tokens=32,
    num_splits=4,
)
SMALL = replace(GQA, num_heads=2, num_kv_heads=1)
SPECS = {
    "gqa": GQA,
    "float16": replace(SMALL, kv_dtype="float16"),
    "multi_head_80": replace(GQA, num_heads=2, num_kv_heads=2, head_dim=80, v_head_dim=80, block_size=8),
    "narrow_values": replace(SMALL, head_dim=128, v_head_dim=40),
    "wide": replace(SMALL, head_dim=256, v_head_dim=256, kv_dtype="float16"),
    "window": replace(SMALL, window=21),
    "window_of_one": replace(SMALL, window=1),
    "chunk": replace(SMALL, chunk=40),
    "chunk_of_one": replace(SMALL, chunk=1, has_slopes=True),
    "softcap": replace(SMALL, softcap=3.0),
    "sinks": replace(SMALL, has_sinks=True),
    "slopes": replace(SMALL, has_slopes=True, softcap=20.0, window=50),
    "large_blocks": replace(SMALL, block_size=64),
    "everything": replace(GQA, has_sinks=True, window=40, softcap=5.0, v_head_dim=48, kv_dtype="float16"),
}
LENGTHS = [17, 0, 200]
CONFIG = config(4, 1, BLOCK_KV=32, PROGRAMS=3)
PREFILL = config(4, 1, BLOCK_M=32, BLOCK_KV=32)


def check(out: np.ndarray, expected: np.ndarray, spec: AttentionSpec) -> None:
    np.testing.assert_allclose(out, expected, rtol=TOLERANCE[spec.kv_dtype], atol=TOLERANCE[spec.kv_dtype])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_decode(spec: AttentionSpec) -> None:
    paged = Paged(spec, LENGTHS, [1] * len(LENGTHS))
    out = paged.run_decode(CONFIG)
    check(out, paged.expected(), spec)
    assert (out[1] == 0).all()  # the padded sequence


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_prefill_of_ragged_chunks(spec: AttentionSpec) -> None:
    paged = Paged(spec, [5, 100, 0, 64], [5, 41, 0, 1])
    check(paged.run_prefill(PREFILL), paged.expected(), spec)


def test_default_configs_in_both_kernels() -> None:
    paged = Paged(SMALL, [70, 3], [1, 1])
    check(paged.run_decode(attention_decode.defaults(SMALL, 300)), paged.expected(), SMALL)
    paged = Paged(SMALL, [70], [70])
    check(paged.run_prefill(attention_prefill.defaults(SMALL, 70)), paged.expected(), SMALL)


def test_a_mixed_batch_is_shared_between_the_two() -> None:
    paged = Paged(SMALL, [5, 100, 0, 64, 9], [5, 1, 0, 1, 2])
    is_decode = np.array([False] * 5 + [True] * 2 + [False] * 2)
    decoded, prefilled = paged.run_decode(CONFIG, mixed=True), paged.run_prefill(PREFILL, skip_decode=True)
    assert (decoded[~is_decode] == UNTOUCHED).all()
    assert (prefilled[is_decode] == UNTOUCHED).all()
    check(np.where(is_decode[:, None, None], decoded, prefilled), paged.expected(), SMALL)


@pytest.mark.parametrize(
    "spec", [SMALL, replace(SMALL, window=40), replace(SMALL, chunk=48)], ids=["all", "window", "chunk"]
)
def test_a_decode_has_the_same_bits_in_any_batch(spec: AttentionSpec) -> None:
    """The second half of the batch on its own, with another number of programs."""
    paged = Paged(spec, [200, 131], [1, 1])
    together = paged.run_decode(CONFIG)
    paged.context_lens[0] = 0
    alone = paged.run_decode(config(4, 1, BLOCK_KV=32, PROGRAMS=1))
    np.testing.assert_array_equal(alone[1], together[1])


@pytest.mark.parametrize(
    "spec", [SMALL, replace(SMALL, window=40), replace(SMALL, chunk=48)], ids=["all", "window", "chunk"]
)
def test_a_prompt_has_the_same_bits_in_any_chunks(spec: AttentionSpec) -> None:
    whole = Paged(spec, [90], [90]).run_prefill(PREFILL)
    chunk = Paged(spec, [90], [90])
    chunk.context_lens, chunk.num_queries, chunk.num_tokens = [61], [13], 13
    chunk.q = chunk.q[48:61]
    chunk.query_start_loc = np.array([0, 13], np.int32)
    np.testing.assert_array_equal(chunk.run_prefill(PREFILL), whole[48:61])


def test_sinks_must_be_where_the_spec_has_them() -> None:
    paged = Paged(GQA, [3], [1])
    paged.spec = replace(GQA, has_sinks=True)
    with pytest.raises(ValueError, match="sinks are missing"):
        paged.run_decode(CONFIG)
