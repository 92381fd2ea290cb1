import numpy as np
import pytest
import torch
from tests.kernels.triton.device import DEVICE, tensor

from pagedc.kernels.triton import kv_cache
from pagedc.kernels.triton.kv_cache import KV_DTYPES, CacheSpec
from pagedc.kernels.triton.launch import run_all

NUM_BLOCKS = 5


@pytest.mark.parametrize("kv_dtype", ["float32", "float16"])
@pytest.mark.parametrize(("head_dim", "v_head_dim", "block_size"), [(64, 64, 16), (80, 48, 8), (5, 3, 32)])
def test_stores_what_has_a_slot_and_nothing_else(
    kv_dtype: str, head_dim: int, v_head_dim: int, block_size: int
) -> None:
    spec = CacheSpec(
        num_kv_heads=3, head_dim=head_dim, v_head_dim=v_head_dim, block_size=block_size, kv_dtype=kv_dtype
    )
    rng = np.random.default_rng(0)
    width, v_width = 3 * head_dim, 3 * v_head_dim
    rows = tensor(rng.standard_normal((6, width + v_width + 4)), torch.float32)
    k, v = rows[:, :width], rows[:, width : width + v_width]
    slots = [2 * block_size + 3, -1, 0, NUM_BLOCKS * block_size - 1, -1, block_size]
    k_cache = torch.zeros(spec.k_shape(NUM_BLOCKS), dtype=KV_DTYPES[kv_dtype], device=DEVICE)
    v_cache = torch.zeros(spec.v_shape(NUM_BLOCKS), dtype=KV_DTYPES[kv_dtype], device=DEVICE)
    expected_k, expected_v = k_cache.clone(), v_cache.clone()
    for token, slot in enumerate(slots):
        if slot >= 0:
            place = (slot // block_size, slice(None), slot % block_size)
            expected_k[place] = k[token].view(3, head_dim).to(expected_k.dtype)
            expected_v[place] = v[token].view(3, v_head_dim).to(expected_v.dtype)
    run_all(
        kv_cache.launch_store_kv(
            spec, kv_cache.defaults(spec, 6), k, v, tensor(slots, torch.int64), k_cache, v_cache
        )
    )
    torch.testing.assert_close(k_cache, expected_k, rtol=0, atol=0)
    torch.testing.assert_close(v_cache, expected_v, rtol=0, atol=0)


def test_a_block_is_as_large_as_its_tensors() -> None:
    spec = CacheSpec(num_kv_heads=8, head_dim=192, v_head_dim=128, block_size=16, kv_dtype="bfloat16")
    assert spec.bytes_per_block == 8 * 16 * (192 + 128) * 2
