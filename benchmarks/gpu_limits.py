"""What this GPU can do: copy bandwidth and bfloat16 matmul rate, by torch. Prints JSON."""

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


def main() -> None:
    """All of it."""
    figures = {
        "gpu": torch.cuda.get_device_name(),
        "copy_bytes_per_s": copy_bandwidth(),
        "matmul_flops_per_s": matmul_rate(),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
