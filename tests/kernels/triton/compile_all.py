"""Compile every kernel for every chip, without a GPU, and print what each needs: one JSON object a line.

A process of its own: where triton interprets kernels it cannot compile them.
"""

import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from typing import Any

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton import (
    attention_decode,
    attention_prefill,
    causal_conv,
    embedding,
    grouped_linear,
    known_tokens,
    kv_cache,
    linear,
    linear_recurrence,
    linear_tile,
    running_max,
    sampling,
    select_rows,
)
from pagedc.kernels.triton.attention import AttentionSpec
from pagedc.kernels.triton.kv_cache import KV_DTYPES
from pagedc.kernels.triton.launch import KernelConfig, Launch
from pagedc.kernels.triton.linear_recurrence import Decay, RecurrenceInputs, RecurrenceSpec
from pagedc.kernels.triton.resources import compile_launch, measure
from pagedc.kernels.triton.state import StateInputs
from pagedc.kernels.triton.weights import WeightTensors, parse_format

CHIPS = (80, 90, 100)
HIDDEN = 4096
HIDDEN_WIDTH = tl.constexpr(HIDDEN)


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> torch.Tensor:
    return meta(*shape, dtype=torch.int32)


def floats(*shape: int) -> torch.Tensor:
    return meta(*shape, dtype=torch.float32)


def weight(name: str, *shape: int) -> WeightTensors:
    weight_format, (*lead, k) = parse_format(name), shape
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
    if weight_format.bits == 4:
        codes = meta(*lead, k // 2, dtype=torch.uint8)
    else:
        codes = meta(*shape, dtype=dtypes.get(name, torch.int8))
    if weight_format.has_row_scale:
        return WeightTensors(codes, floats(*lead))
    if not weight_format.group_size:
        return WeightTensors(codes)
    groups = meta(*lead, k // weight_format.group_size, dtype=torch.float16)
    return WeightTensors(codes, groups, groups if weight_format.has_minimum else None)


LLAMA = AttentionSpec(
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    v_head_dim=128,
    block_size=16,
    kv_dtype="bfloat16",
    scale=0.088,
)
GEMMA = replace(
    LLAMA,
    num_heads=8,
    num_kv_heads=4,
    head_dim=256,
    v_head_dim=256,
    window=4096,
    softcap=50.0,
    has_sinks=True,
)


def attention(
    spec: AttentionSpec, decode: KernelConfig | None = None, prefill: KernelConfig | None = None
) -> list[Launch]:
    dtype, act = KV_DTYPES[spec.kv_dtype], torch.bfloat16
    if spec.kv_dtype == "float32":
        act = torch.float32
    q, out = (meta(64, spec.num_heads * width, dtype=act) for width in (spec.head_dim, spec.v_head_dim))
    k_cache, v_cache = meta(*spec.k_shape(9), dtype=dtype), meta(*spec.v_shape(9), dtype=dtype)
    tables = ints(4, 64), ints(4)
    sinks = floats(spec.num_heads) if spec.has_sinks else None
    return [
        *attention_decode.launch_attention_decode(
            spec, decode or attention_decode.defaults(spec, 4), q, k_cache, v_cache, *tables, sinks, None,
            floats(9), out,
        ),
        *attention_prefill.launch_attention_prefill(
            spec, prefill or attention_prefill.defaults(spec, 64), q, k_cache, v_cache, *tables, ints(5),
            sinks, None, out, skip_decode=True,
        ),
    ]  # fmt: skip


PERSISTENT = linear.config(8, 3, BLOCK_N=128, BLOCK_T=128, BLOCK_K=64, SLICED=0, PROGRAMS=132)
WIDE = linear.config(8, 3, BLOCK_N=128, BLOCK_T=256, BLOCK_K=64, SLICED=0, PROGRAMS=132)


@triton.jit
def gate(acc, tokens, token_mask, first_column, out, e0, e1, e2, e3, e4, e5):
    """An epilogue: both halves of a weight in stripes."""
    gates, values = linear_tile.split_stripes(acc)
    columns = first_column // 2 + tl.arange(0, gates.shape[1])
    places = tokens[:, None] * (HIDDEN_WIDTH // 2) + columns[None, :]
    tl.store(out + places, gates / (1.0 + tl.exp(-gates)) * values, mask=token_mask[:, None])


def dense(
    name: str, num_tokens: int, epilogue: Any = None, config: KernelConfig | None = None, split_k: int = 0
) -> list[Launch]:
    spec = linear.LinearSpec(n=HIDDEN, k=HIDDEN, weight_format=name, split_k=split_k)
    act = torch.float32 if name == "f32" else torch.bfloat16
    x, out = meta(num_tokens, HIDDEN, dtype=act), meta(num_tokens, HIDDEN, dtype=act)
    config = config or linear.defaults(spec, num_tokens)
    return linear.launch_linear(
        spec, config, x, weight(name, HIDDEN, HIDDEN), out, floats(9), ints(9), epilogue=epilogue
    )


def others() -> list[Launch]:
    store = kv_cache.launch_store_kv(
        LLAMA, kv_cache.defaults(LLAMA, 4), meta(4, 1024), meta(4, 1024), meta(4, dtype=torch.int64),
        meta(*LLAMA.k_shape(9)), meta(*LLAMA.v_shape(9)),
    )  # fmt: skip
    experts = grouped_linear.GroupedSpec(
        experts=64, n=HIDDEN, k=HIDDEN, top_k=8, shared_x=True, weight_format="bf16"
    )
    grouped = grouped_linear.launch_grouped_linear(
        experts, grouped_linear.defaults(experts, 4), meta(4, HIDDEN), ints(4, 8),
        weight("bf16", 64, HIDDEN, HIDDEN), meta(32, HIDDEN), ints(9),
    )  # fmt: skip
    table = embedding.EmbeddingSpec(vocab_size=1000, width=HIDDEN, weight_format="int4_g32_min")
    rows = embedding.launch_embedding(
        table, embedding.defaults(table, 4), ints(4), weight("int4_g32_min", 1000, HIDDEN), meta(4, HIDDEN)
    )
    selected = select_rows.launch_select_rows(meta(4, HIDDEN), ints(2), meta(2, HIDDEN))
    known = known_tokens.launch_known_tokens(ints(4), ints(4))
    stateful = convolution(decodes=False) + recurrence("HEAD", 32, 128, 128, is_delta=True) + maximum()
    return store + grouped + rows + known + selected + sampler() + stateful


def state_of(num_floats: int) -> StateInputs:
    arrays = {"slots": ints(4), "context_lens": ints(4), "query_start_loc": ints(5)}
    return StateInputs(state=floats(4, num_floats), **arrays)


def convolution(*, decodes: bool) -> list[Launch]:
    spec = causal_conv.ConvSpec(channels=8192, taps=4)
    x, config = floats(64, 8192), causal_conv.defaults(spec, decodes=decodes)
    state = state_of(spec.state_floats)
    return causal_conv.launch_causal_conv(spec, config, x, floats(4, 8192), state, x, decodes=decodes)


def recurrence(decay: Decay, heads: int, key_dim: int, value_dim: int, *, is_delta: bool) -> list[Launch]:
    spec = RecurrenceSpec(
        heads=heads, key_heads=1, key_dim=key_dim, value_dim=value_dim, decay=decay, is_delta=is_delta
    )
    q, v = floats(1, key_dim), floats(1, heads * value_dim)
    rate = floats(heads, key_dim, value_dim) if decay == "EXP_COLUMN" else None
    rows = RecurrenceInputs(q=q, k=q, v=v, decay=v, rate=rate, beta=floats(1, heads) if is_delta else None)
    config, state = linear_recurrence.defaults(spec), state_of(spec.state_floats)
    return linear_recurrence.launch_linear_recurrence(spec, config, rows, state, v)


def maximum() -> list[Launch]:
    spec, x = running_max.RunningMaxSpec(channels=4096, initial=-1e38), floats(1, 4096)
    return running_max.launch_running_max(spec, x, x, state_of(spec.state_floats), x)


def sampler() -> list[Launch]:
    spec = sampling.SamplingSpec(vocab_size=128256, max_logprobs=20)
    config = sampling.defaults(spec, 4)
    inputs = ints(4, 20), ints(9), ints(9), floats(9), ints(4, 4008)
    num_floats, num_ints = sampling.scratch_sizes(spec, config, 4)
    outputs = ints(4), floats(4), ints(4, 20), floats(4, 20)
    return sampling.launch_sampling(
        spec, config, floats(4, 128256), *inputs, floats(num_floats), ints(num_ints), *outputs
    )


def cases() -> Iterator[tuple[str, int, Launch]]:
    """(name, chip, launch): the main ones for every chip, the variants for one."""
    everywhere = [
        *(("llama", launch) for launch in attention(LLAMA)),
        *((f"bf16, {tokens} tokens", dense("bf16", tokens)[0]) for tokens in (1, 1024)),
        ("persistent bf16", dense("bf16", 2048, config=PERSISTENT, split_k=1)[0]),
        *(("", launch) for launch in others()),
    ]
    yield from ((f"{name} {launch.name}", chip, launch) for name, launch in everywhere for chip in CHIPS)
    for name, spec in (
        ("gemma", GEMMA),
        ("fp8 cache", replace(LLAMA, kv_dtype="fp8")),
        ("float32", replace(LLAMA, kv_dtype="float32")),
    ):
        yield from ((f"{name} {launch.name}", 90, launch) for launch in attention(spec))
    for name, tokens in (
        ("bf16", 64), ("bf16", 256), ("f32", 1), ("fp8", 1), ("int8_g0", 1), ("int8_g32", 1),
        ("int8_g32", 1024), ("int4_g32_min", 1), ("int4_g32_min", 1024),
    ):  # fmt: skip
        yield f"{name}, {tokens} tokens linear_kernel", 90, dense(name, tokens)[0]
    yield from (
        (f"bf16, epilogue, {n} tokens linear_kernel", 90, dense("bf16", n, gate)[0]) for n in (1, 1024)
    )
    yield "bf16, wide, epilogue linear_kernel", 90, dense("bf16", 1024, gate, split_k=1)[0]
    yield "decode causal_conv_kernel", 90, convolution(decodes=True)[0]
    for decay, heads, key_dim, value_dim in (
        ("HEAD", 64, 128, 64), ("ROW", 32, 128, 128), ("EXP_COLUMN", 1, 16, 8192), ("COLUMN", 1, 1, 2560),
    ):  # fmt: skip
        launch = recurrence(decay, heads, key_dim, value_dim, is_delta=decay == "ROW")[0]
        yield f"{decay} {heads} {key_dim} {value_dim} linear_recurrence_kernel", 90, launch
    for name, split_k, config in (("bf16", 1, WIDE), ("bf16", 4, PERSISTENT), ("fp8", 1, PERSISTENT)):
        launch = dense(name, 2048, gate, config, split_k)[0]
        yield f"persistent {name} in {split_k}, epilogue linear_persistent_kernel", 90, launch


def compile_case(index: int) -> str:
    """One case, as a line of JSON."""
    name, chip, launch = list(cases())[index]
    compiled = compile_launch(replace(launch, pdl=chip >= 90), chip)
    resources = measure(compiled)
    ptx = compiled.asm["ptx"]
    return json.dumps(
        {
            "name": name,
            "chip": chip,
            **asdict(resources),
            "fits": resources.fits(chip),
            "pdl": "griddepcontrol.wait" in ptx,
            "instructions": sorted(
                set(
                    re.findall(
                        r"wgmma\.mma_async|tcgen05\.mma|\bmma\.sync|cp\.async\.cg|cp\.async\.bulk\.tensor",
                        ptx,
                    )
                )
            ),
        }
    )


if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        for line in pool.map(compile_case, range(len(list(cases())))):
            print(line)
            sys.stdout.flush()
