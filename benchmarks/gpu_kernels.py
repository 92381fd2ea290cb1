"""Single kernels with their default configs, beside torch's own attention and cuBLAS. Prints JSON.

The package's kernels are launched through Triton here, and cuBLAS through torch: a runtime has neither, so
they are a measure and no candidate.
"""

import json
from typing import Any

import torch

from benchmarks.gpu_limits import seconds
from pagedc.kernels.triton import attention_decode, attention_prefill, linear
from pagedc.kernels.triton.attention import AttentionSpec
from pagedc.kernels.triton.launch import run_all
from pagedc.kernels.triton.weights import WeightTensors

BF16: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
INT: dict[str, Any] = {"device": "cuda", "dtype": torch.int32}
SPEC = AttentionSpec(
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    v_head_dim=128,
    block_size=16,
    kv_dtype="bfloat16",
    scale=0.088,
)
SHAPES = ((6144, 4096), (28672, 4096), (4096, 14336))  # of an 8B's linears
TOKENS = (1, 16, 64, 256, 4096)


def ints(values: Any) -> torch.Tensor:
    """int32 on the device."""
    return torch.as_tensor(values, dtype=torch.int32).cuda()


def cache(num_blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys and values."""
    return torch.randn(SPEC.k_shape(num_blocks), **BF16), torch.randn(SPEC.v_shape(num_blocks), **BF16)


def decode(num_seqs: int, context: int) -> dict[str, float]:
    """Decode attention of `num_seqs` sequences, whose blocks lie anywhere in the cache."""
    per_seq = context // SPEC.block_size
    tables = ints(torch.randperm(num_seqs * per_seq).reshape(num_seqs, per_seq))
    q, out = torch.randn(num_seqs, 32 * 128, **BF16), torch.empty(num_seqs, 32 * 128, **BF16)
    scratch = torch.empty(attention_decode.scratch_floats(SPEC, num_seqs), device="cuda")
    launches = attention_decode.launch_attention_decode(
        SPEC,
        attention_decode.defaults(SPEC, num_seqs),
        q,
        *cache(num_seqs * per_seq),
        tables,
        ints([context] * num_seqs),
        None,
        None,
        scratch,
        out,
    )
    num_bytes = num_seqs * per_seq * SPEC.bytes_per_block
    return {"seconds": seconds(lambda: run_all(launches), 5), "bytes": num_bytes}


def prefill(length: int) -> dict[str, float]:
    """Attention of one prompt over itself."""
    blocks = length // SPEC.block_size
    q, out = torch.randn(length, 32 * 128, **BF16), torch.empty(length, 32 * 128, **BF16)
    launches = attention_prefill.launch_attention_prefill(
        SPEC,
        attention_prefill.defaults(SPEC, length),
        q,
        *cache(blocks),
        ints(torch.arange(blocks)[None]),
        ints([length]),
        ints([0, length]),
        None,
        None,
        out,
        skip_decode=True,
    )
    return {"seconds": seconds(lambda: run_all(launches), 5), "flops": 2.0 * length**2 * 32 * 128}


def product(tokens: int, n: int, k: int) -> dict[str, float]:
    """A linear; enough weights in turn that none stays in the cache."""
    spec = linear.LinearSpec(n=n, k=k, weight_format="bf16")
    config = linear.defaults(spec, tokens)
    floats, counters = linear.scratch_sizes(spec, config, tokens)
    x, out = torch.randn(tokens, k, **BF16), torch.empty(tokens, n, **BF16)
    scratch = torch.empty(max(floats, 1), device="cuda"), torch.zeros(max(counters, 1), **INT)
    weights = [torch.randn(n, k, **BF16) for _ in range(8)]
    launches = [
        launch
        for weight in weights
        for launch in linear.launch_linear(spec, config, x, WeightTensors(weight), out, *scratch)
    ]
    ours = seconds(lambda: run_all(launches), 2) / len(weights)
    theirs = seconds(lambda: [torch.mm(x, weight.T, out=out) for weight in weights], 2) / len(weights)
    return {"seconds": ours, "cublas_s": theirs, "bytes": 2.0 * n * k, "flops": 2.0 * tokens * n * k}


def sdpa(batch: int, context: int, queries: int) -> float:
    """Seconds of torch's attention with 32 heads of 128 over 8 of keys."""
    q = torch.randn(batch, 32, queries, 128, **BF16)
    k, v = (torch.randn(batch, 8, context, 128, **BF16) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    return seconds(lambda: attend(q, k, v, is_causal=queries > 1, enable_gqa=True), 5)


def attempt(work: Any) -> Any:
    """What `work` gives, or why it gives nothing: one kernel's failure is not the others'."""
    try:
        return work()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}


def main() -> None:
    """All of it."""
    figures = {
        "attention_decode_64x8192": attempt(lambda: decode(64, 8192)),
        "attention_decode_1x16384": attempt(lambda: decode(1, 16384)),
        "attention_prefill_4096": attempt(lambda: prefill(4096)),
        "linear": {
            f"{tokens}x{n}x{k}": attempt(lambda tokens=tokens, n=n, k=k: product(tokens, n, k))
            for tokens in TOKENS
            for n, k in SHAPES
        },
        "sdpa_decode_64x8192_s": attempt(lambda: sdpa(64, 8192, 1)),
        "sdpa_prefill_4096_s": attempt(lambda: sdpa(1, 4096, 4096)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
