"""What a person may ask of an engine, and what that means for one package on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pagedc.runtime.errors import UsageError
from pagedc.runtime.gpu_memory import measure_gpu_memory
from pagedc.runtime.manifest import Manifest

# Rows of logits beyond one a sequence: prompt_logprobs asks for a row a prompt token, this many a step at
# least.
PROMPT_LOGPROB_ROWS = 32
# Of the memory left beside the weights, what the KV cache takes at most unless `memory` says otherwise: a
# second package, the server and the page cache live on this machine too.
DEFAULT_KV_CACHE_SHARE = 0.4
GPU_KV_CACHE_SHARE = 0.9  # a GPU's memory has no such neighbours
INTERPRET = "PAGEDC_TRITON_INTERPRET"  # =1: a package for a GPU runs under Triton's interpreter; for tests


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What was asked for; None means: as the package was planned."""

    memory: int | None = None  # bytes for weights, activations and KV cache together
    num_threads: int | None = None  # None = the cores that this process may use
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    prefix_cache: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine works with, every value decided."""

    block_size: int  # tokens
    num_blocks: int
    max_model_len: int  # tokens of prompt and completion together
    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_rows: int  # of logits in a step
    vocab_size: int
    hidden_size: int = 0  # 0 = the program gives no hidden states
    generates: bool = True  # False = embeddings alone
    num_threads: int = 1
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise UsageError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, below max_num_seqs, "
                f"{self.max_num_seqs}: each running sequence needs one token a step"
            )
        if self.num_blocks * self.block_size < self.max_model_len:
            raise UsageError(
                f"the KV cache holds {self.num_blocks * self.block_size} tokens, fewer than max_model_len, "
                f"{self.max_model_len}: give more memory or lower max_model_len"
            )

    @property
    def max_blocks_per_seq(self) -> int:
        """Width of a block table."""
        return -(-self.max_model_len // self.block_size)


class MemoryNeed(NamedTuple):
    """Bytes that an engine takes whatever its KV cache, and with the smallest cache that works."""

    fixed: int
    least: int


def memory_need(manifest: Manifest, options: EngineOptions) -> MemoryNeed:
    """What a package needs with these options; raises UsageError for one that cannot be met."""
    max_model_len = _lowered("max_model_len", options.max_model_len, manifest.limits.max_model_len)
    max_num_seqs = _lowered("max_num_seqs", options.max_num_seqs, manifest.limits.max_num_seqs)
    max_num_batched_tokens = _lowered(
        "max_num_batched_tokens", options.max_num_batched_tokens, manifest.limits.max_num_batched_tokens
    )
    fixed = (
        manifest.memory.weights_bytes
        + manifest.memory.scratch_bytes
        + manifest.memory.arena_bytes_per_token * max_num_batched_tokens
        + manifest.memory.logits_bytes_per_row * (max_num_seqs + PROMPT_LOGPROB_ROWS)
        + manifest.memory.state_bytes_per_seq * max_num_seqs
    )
    blocks_per_seq = -(-max_model_len // manifest.kv_cache.block_size)
    return MemoryNeed(fixed, fixed + blocks_per_seq * manifest.kv_cache.bytes_per_block)


def resolve(manifest: Manifest, options: EngineOptions, available_memory: int | None = None) -> EngineConfig:
    """Decide every value for this package; raises UsageError for an option that cannot be met.

    `available_memory` in bytes, measured if None, is what the KV cache's size is derived from when no memory
    is named.
    """
    max_model_len = _lowered("max_model_len", options.max_model_len, manifest.limits.max_model_len)
    max_num_seqs = _lowered("max_num_seqs", options.max_num_seqs, manifest.limits.max_num_seqs)
    max_num_batched_tokens = _lowered(
        "max_num_batched_tokens", options.max_num_batched_tokens, manifest.limits.max_num_batched_tokens
    )
    if options.num_threads is not None and options.num_threads < 1:
        raise UsageError(f"num_threads is {options.num_threads}, below 1")
    max_num_rows = max_num_seqs + PROMPT_LOGPROB_ROWS
    has_state = manifest.memory.state_bytes_per_seq > 0
    fixed, needed = memory_need(manifest, options)
    block_size, block_bytes = manifest.kv_cache.block_size, manifest.kv_cache.bytes_per_block
    blocks_per_seq = -(-max_model_len // block_size)
    on_gpu = manifest.target.kind == "cuda" and not is_interpreted(manifest)
    if options.memory is None:
        if available_memory is None:
            available_memory = measure_gpu_memory() if on_gpu else measure_available_memory()
        share = GPU_KV_CACHE_SHARE if on_gpu else DEFAULT_KV_CACHE_SHARE
        room = int(share * max(available_memory - fixed, 0))
    else:
        room = options.memory - fixed
    num_blocks = max_num_seqs * blocks_per_seq
    if block_bytes > 0:  # 0: no layer attends, so blocks cost nothing
        num_blocks = min(room // block_bytes, num_blocks)
    if num_blocks < blocks_per_seq or room < 0:
        given = f"{available_memory} bytes are free"
        if options.memory is not None:
            given = f"memory is {options.memory}"
        state, lower = "", "max_model_len"
        if has_state:
            state, lower = f", the state of {max_num_seqs} sequences", "max_model_len or max_num_seqs"
        raise UsageError(
            f"{given}, but one sequence of max_model_len {max_model_len} needs {needed} bytes, {fixed} of "
            f"them for weights{state} and activations: lower {lower}, or give --memory at least {needed}"
        )
    return EngineConfig(
        block_size=block_size,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_rows=max_num_rows,
        vocab_size=manifest.model.vocab_size,
        hidden_size=manifest.model.hidden_size,
        generates=manifest.model.generates,
        num_threads=options.num_threads if options.num_threads is not None else usable_cores(),
        # A block that is found holds keys and values, but not the state after its last token.
        prefix_cache=options.prefix_cache and not has_state,
    )


def is_interpreted(manifest: Manifest) -> bool:
    """Whether a package for a GPU runs without one."""
    return manifest.target.arch == "interpreter" or os.environ.get(INTERPRET) == "1"


def usable_cores() -> int:
    """Cores that this process may run on, a container's quota considered."""
    num_cores = len(os.sched_getaffinity(0))
    quota = _cgroup_cpu_quota()
    return num_cores if quota is None else max(1, min(num_cores, int(quota)))


def measure_available_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may still be taken without swapping, a container's limit considered."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    for folder, limit, usage in (
        (cgroup, "memory.max", "memory.current"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit_text, usage_text = _read(folder / limit), _read(folder / usage)
        if limit_text.isdigit() and usage_text.isdigit():
            taken = int(usage_text) - _cached_files(folder)
            available = min(available, max(int(limit_text) - taken, 0))
    return available


def _cached_files(cgroup: Path) -> int:
    """Bytes of a container's usage that the kernel gives back when they are needed: weights that were read
    ahead are among them, and would else count twice.
    """
    counts = dict(line.split() for line in _read(cgroup / "memory.stat").splitlines())
    names = ("active_file", "inactive_file")  # version 1 has those of the groups inside as total_…
    return sum(int(counts.get(f"total_{name}", counts.get(name, 0))) for name in names)


def _cgroup_cpu_quota() -> float | None:
    """Cores' worth of time that the container gets, or None for no limit."""
    quota, period = ([*_read("/sys/fs/cgroup/cpu.max").split(), "", ""])[:2]
    if not quota:
        quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _lowered(name: str, asked: int | None, limit: int) -> int:
    if asked is None:
        return limit
    if not 1 <= asked <= limit:
        raise UsageError(
            f"{name} is {asked}, not in [1, {limit}]: the package was compiled for at most {limit}"
        )
    return asked
