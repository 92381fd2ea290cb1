"""The KV cache of a layer, and the kernel that stores new tokens in it.

K [num_blocks, num_kv_heads, block_size, head_dim], V [num_blocks, num_kv_heads, block_size, v_head_dim]: a
head's part of a block is one run of memory, which attention reads without gaps. Slot s is offset
s % block_size of block s // block_size.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import KernelConfig, Launch, config, next_power

KV_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec:
    """What a layer's cache is."""

    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    block_size: int
    kv_dtype: str  # a key of KV_DTYPES

    def k_shape(self, num_blocks: int) -> tuple[int, int, int, int]:
        """Of the tensor that holds K."""
        return num_blocks, self.num_kv_heads, self.block_size, self.head_dim

    def v_shape(self, num_blocks: int) -> tuple[int, int, int, int]:
        """Of the tensor that holds V."""
        return num_blocks, self.num_kv_heads, self.block_size, self.v_head_dim

    @property
    def bytes_per_block(self) -> int:
        """K and V of one block."""
        size = KV_DTYPES[self.kv_dtype].itemsize
        return self.num_kv_heads * self.block_size * (self.head_dim + self.v_head_dim) * size


def defaults(spec: CacheSpec, bucket: int) -> KernelConfig:
    """Not tuned: a program a token and head, so that one token is stored by many."""
    return config(num_warps=1, num_stages=1)


def candidates(spec: CacheSpec, bucket: int) -> list[KernelConfig]:
    """1, 2 or 4 warps."""
    return [config(num_warps=warps, num_stages=1) for warps in (1, 2, 4)]


def launch_store_kv(
    spec: CacheSpec,
    config: KernelConfig,
    k: torch.Tensor,  # [T, num_kv_heads * head_dim], any row stride
    v: torch.Tensor,  # [T, num_kv_heads * v_head_dim], any row stride
    slot_mapping: torch.Tensor,  # [T] int64, -1 = padding
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    pdl: bool = False,
) -> list[Launch]:
    """cache[slot_mapping[t]] = k[t], v[t] for every token with a slot."""
    return [
        Launch(
            store_kv_kernel,
            (k.shape[0], spec.num_kv_heads, 1),
            {"k": k, "v": v, "slot_mapping": slot_mapping, "k_cache": k_cache, "v_cache": v_cache},
            {
                "K_STRIDE": k.stride(0),
                "V_STRIDE": v.stride(0),
                "NUM_KV_HEADS": spec.num_kv_heads,
                "HEAD_DIM": spec.head_dim,
                "V_HEAD_DIM": spec.v_head_dim,
                "BLOCK_SIZE": spec.block_size,
                "K_WIDTH": next_power(spec.head_dim),
                "V_WIDTH": next_power(spec.v_head_dim),
            },
            config.num_warps,
            config.num_stages,
            pdl,
        )
    ]


@triton.jit
def place_in_cache(
    block, offset, head, NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, WIDTH: tl.constexpr
):
    """Where the head's `WIDTH` values of the token at `offset` of int64 `block` start."""
    return ((block * NUM_KV_HEADS + head) * BLOCK_SIZE + offset) * WIDTH


@triton.jit
def cache_offset(slot, head, NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """Where the head's `WIDTH` values of int64 `slot` start."""
    return place_in_cache(slot // BLOCK_SIZE, slot % BLOCK_SIZE, head, NUM_KV_HEADS, BLOCK_SIZE, WIDTH)


@triton.jit
def place_of_elements(
    slot, elements, NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, WIDTH: tl.constexpr
):
    """Where the token in int64 `slot` has the elements head · WIDTH + d."""
    return cache_offset(slot, elements // WIDTH, NUM_KV_HEADS, BLOCK_SIZE, WIDTH) + elements % WIDTH


@triton.jit
def store_kv_kernel(
    k, v, slot_mapping, k_cache, v_cache,
    K_STRIDE: tl.constexpr, V_STRIDE: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (T, num_kv_heads)."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    slot = tl.load(slot_mapping + token)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if slot >= 0:
        d = tl.arange(0, K_WIDTH)
        row = tl.load(k + token * K_STRIDE + head * HEAD_DIM + d, mask=d < HEAD_DIM)
        out = k_cache + cache_offset(slot, head, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM) + d
        tl.store(out, row.to(k_cache.dtype.element_ty), mask=d < HEAD_DIM)
        d = tl.arange(0, V_WIDTH)
        row = tl.load(v + token * V_STRIDE + head * V_HEAD_DIM + d, mask=d < V_HEAD_DIM)
        out = v_cache + cache_offset(slot, head, NUM_KV_HEADS, BLOCK_SIZE, V_HEAD_DIM) + d
        tl.store(out, row.to(v_cache.dtype.element_ty), mask=d < V_HEAD_DIM)
