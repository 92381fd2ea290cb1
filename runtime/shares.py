"""What each of several packages on one machine gets of its memory and its threads."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pagedc.runtime.config import (
    DEFAULT_KV_CACHE_SHARE,
    EngineOptions,
    MemoryNeed,
    measure_available_memory,
    memory_need,
    usable_cores,
)
from pagedc.runtime.errors import UsageError
from pagedc.runtime.package import read_manifest
from pagedc.runtime.share import Share


def options_of_each(
    paths: Sequence[Path], options: EngineOptions, memory: Share | None, threads: Share | None
) -> list[EngineOptions]:
    """The options of each package's engine, the amounts shared out; raises PackageError or UsageError.

    One package gets all. Of several, each gets the memory that it cannot do without, and of what is left its
    weight's part; threads by weight, at least one.
    """
    if len(paths) == 1:
        return [
            replace(
                options,
                memory=None if memory is None else memory.total,
                num_threads=None if threads is None else threads.total,
            )
        ]
    needs = [memory_need(read_manifest(path), options) for path in paths]
    amounts = zip(share_memory(needs, memory), share_threads(len(paths), threads), strict=True)
    return [replace(options, memory=memory, num_threads=num_threads) for memory, num_threads in amounts]


def share_memory(needs: Sequence[MemoryNeed], share: Share | None) -> list[int]:
    """Bytes of each package; raises UsageError when the total does not even hold their needs."""
    if share is None:
        fixed = sum(need.fixed for need in needs)
        share = Share(fixed + int(DEFAULT_KV_CACHE_SHARE * max(measure_available_memory() - fixed, 0)))
    weights = share.weights_of(len(needs), "--memory")
    least = [need.least for need in needs]
    left = share.total - sum(least)
    if left < 0:
        raise UsageError(
            f"{share.total} bytes of memory are too few for {len(needs)} packages, which need {sum(least)} "
            "for weights, activations and one sequence each: lower max_model_len, or give more --memory"
        )
    return [own + int(left * weight / sum(weights)) for own, weight in zip(least, weights, strict=True)]


def share_threads(num_packages: int, share: Share | None) -> list[int]:
    """Threads of each package: all of them are used where there are as many as packages."""
    share = share or Share(usable_cores())
    weights = share.weights_of(num_packages, "--threads")
    threads = [1] * num_packages
    for _ in range(share.total - num_packages):
        # One at a time to whom most is owed.
        owed = [
            share.total * weight / sum(weights) - own for weight, own in zip(weights, threads, strict=True)
        ]
        threads[owed.index(max(owed))] += 1
    return threads
