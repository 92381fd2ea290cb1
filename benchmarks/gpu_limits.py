"""What this GPU can do: copy bandwidth, bfloat16 matmul rate, and torch's own attention. Prints JSON."""

import json
from collections.abc import Callable

import torch

REPEATS = 20


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Of one call, in a graph of `repeats` of them so that Python's time is not counted; the best of five."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            work()
    best = float("inf")
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3 / repeats)
    return best


def copy_bandwidth() -> float:
    """Bytes read and written a second, of 1 GiB: far more than the cache holds."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), 5)


def matmul_rate(n: int = 8192) -> float:
    """Operations a second of cuBLAS on bfloat16 [n, n]."""
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / seconds(lambda: torch.mm(a, b, out=out), 10)


def sdpa(batch: int, context: int, queries: int) -> float:
    """Seconds of torch's attention with 32 heads of 128 over 8 of keys."""
    q = torch.randn(batch, 32, queries, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(batch, 8, context, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    return seconds(lambda: attend(q, k, v, is_causal=queries > 1, enable_gqa=True), 5)


def skinny(tokens: int, n: int, k: int) -> float:
    """Seconds of cuBLAS for a few tokens; eight weights in turn, so that none stays in the cache."""
    weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(8)]
    x = torch.randn(tokens, k, device="cuda", dtype=torch.bfloat16)
    return seconds(lambda: [torch.mm(x, weight.T) for weight in weights], 4) / len(weights)


def main() -> None:
    """All of it."""
    name = torch.cuda.get_device_name()
    kv_bytes = 64 * 8192 * 8 * 128 * 2 * 2
    figures = {
        "gpu": name,
        "copy_bytes_per_s": copy_bandwidth(),
        "matmul_flops_per_s": matmul_rate(),
        "sdpa_decode_64x8192_s": sdpa(64, 8192, 1),
        "sdpa_decode_64x8192_bytes": kv_bytes,
        "sdpa_prefill_4096_s": sdpa(1, 4096, 4096),
        "cublas_s": {
            f"{tokens}x{n}x{k}": skinny(tokens, n, k)
            for tokens in (1, 16, 64, 256)
            for n, k in ((6144, 4096), (28672, 4096), (4096, 14336))
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
