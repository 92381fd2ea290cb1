"""How long a candidate will take, roughly: enough to leave out what cannot be the fastest.

    µs = launch + (max(memory, caches, products) + steps) / evenness

memory     bytes that must cross the memory bus, at the bandwidth that the bytes in flight can ask for
           (Little's law: an SM's pipelined stages against bandwidth x latency);
caches     bytes that the programs read in all, at the bandwidth of the second-level cache, likewise;
products   operations of whole tiles, at the tensor cores' rate, less for accumulators that are small;
steps      the turns of a program's loop, each with a wait for its stage;
evenness   waves of programs over whole waves: the last one leaves SMs idle.

Programs on an SM at once follow from registers and shared memory, of the cubin where there is one. The chips'
figures are their makers'; only the order of candidates is taken from here, never a figure.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

from pagedc.compiler.targets.cuda.candidates import Candidate
from pagedc.compiler.targets.cuda.configs import triton_module

LATENCY, CACHE_LATENCY = 1e-6, 0.6e-6  # seconds of a load from memory, from the second-level cache
STEP = 30e-9  # seconds of a turn of a loop
MAX_REGISTERS = 255  # a thread; more are spilled
LAUNCH = 2e-6  # seconds of a kernel in a graph
MIN_TILE, FULL_TILE = 0.25, 128 * 128  # share of the peak of the smallest tile; outputs from which it is 1
BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
KV_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1}


@dataclass(frozen=True, slots=True)
class Chip:
    """What a GPU of an architecture can do."""

    num_sms: int
    bandwidth: float  # bytes a second
    cache_bandwidth: float  # of the second level
    flops: float  # bfloat16, dense
    registers: int = 65536  # of an SM
    shared: int = 227 << 10  # bytes a program may have
    threads: int = 2048


CHIPS = {
    "sm_80": Chip(108, 2.0e12, 4e12, 312e12, shared=163 << 10),  # A100 80 GB
    "sm_90": Chip(132, 4.8e12, 7e12, 989e12),  # H200
    "sm_100": Chip(148, 8.0e12, 12e12, 2250e12),  # B200
}


@dataclass(frozen=True, slots=True)
class Work:
    """What one launch of a candidate does."""

    num_bytes: float  # that cross the bus at least once
    flops: float  # that are asked for
    tile_flops: float  # of whole tiles
    cache_bytes: float  # that its programs read in all
    programs: int
    stage_bytes: float  # of shared memory, one stage; 0 = it loads without stages
    accumulators: int  # float32 values of a program
    steps: float = 0  # turns of its loop


@dataclass(frozen=True, slots=True)
class Resources:
    """Of a compiled kernel, or what is expected."""

    registers: int  # a thread
    spilled: int  # bytes a thread
    shared: int  # bytes a program


def expected(work: Work, candidate: Candidate) -> Resources:
    """Before anything is compiled."""
    threads = 32 * candidate.config.num_warps
    registers = work.accumulators // threads + 48
    return Resources(registers, 0, int(work.stage_bytes * max(candidate.config.num_stages - 1, 1)))


def unfit(resources: Resources, candidate: Candidate, chip: Chip) -> str | None:
    """Why a candidate cannot be used."""
    if resources.shared > chip.shared:
        return "shared memory"
    threads = 32 * candidate.config.num_warps
    if resources.registers > MAX_REGISTERS or resources.registers * threads > chip.registers:
        return "registers"
    return "spills" if resources.spilled else None


def predict(work: Work, candidate: Candidate, resources: Resources, chip: Chip) -> float:
    """Microseconds."""
    threads = 32 * candidate.config.num_warps
    at_once = min(
        chip.registers // max(resources.registers * threads, 1),
        (chip.shared + 1024) // (resources.shared + 1024),
        chip.threads // threads,
    )
    slots = chip.num_sms * max(at_once, 1)
    waves: float = work.programs / slots
    evenness = waves / ceil(waves)
    busy = min(work.programs, slots)
    in_flight = busy * work.stage_bytes * max(candidate.config.num_stages - 1, 1)
    asked = in_flight if work.stage_bytes else float("inf")
    memory = work.num_bytes / min(chip.bandwidth, asked / LATENCY)
    caches = work.cache_bytes / min(chip.cache_bandwidth, asked / CACHE_LATENCY)
    tile = max(min(work.accumulators / FULL_TILE, 1.0) ** 0.5, MIN_TILE)
    seconds = max(memory, caches, work.tile_flops / (chip.flops * tile))
    seconds += STEP * work.steps * ceil(waves)
    # Slow programs of one wave do not wait for each other: half of the unevenness is felt below one wave.
    return float(1e6 * (LAUNCH + seconds / (evenness if waves > 1 else (1 + evenness) / 2)))


def work_of(kernel: str, candidate: Candidate, size: int, context: int) -> Work:
    """Of a candidate at a size of a step; `context` is how many keys a sequence has."""
    match kernel:
        case "linear" | "grouped_linear":
            return _product(kernel, candidate, size)
        case "attention_decode":
            return _decode(candidate, size, context)
        case "attention_prefill":
            return _prefill(candidate, size)
    return _rows(kernel, candidate, size)


def _weight_bytes(spec: Any) -> float:
    """Of one weight, with its scales."""
    weight_format = triton_module("weights").parse_format(spec.weight_format)
    scales = 2 * (1 + weight_format.has_minimum) / weight_format.group_size if weight_format.group_size else 0
    return BYTES[spec.weight_format.split("_")[0]] + scales


def _product(kernel: str, candidate: Candidate, size: int) -> Work:
    spec, config = candidate.spec, candidate.config
    size_of = _weight_bytes(spec)
    activation = 4.0 if spec.weight_format == "f32" else 2.0
    n, t, k = config["BLOCK_N"], config["BLOCK_T"], config["BLOCK_K"]
    rows, experts, slices, token_tiles = size, 1, 1, ceil(size / t)
    if kernel == "grouped_linear":
        rows = size * spec.top_k
        experts = min(spec.experts, rows)
        token_tiles = min(rows, rows // t + experts)
    elif config["SLICED"]:
        slices = spec.num_slices
    row_tiles = ceil(spec.n / n)
    partials = 8.0 * slices * rows * spec.n if slices > 1 else 0.0
    return Work(
        num_bytes=experts * spec.n * spec.k * size_of + rows * (spec.k + spec.n) * activation,
        flops=2.0 * rows * spec.n * spec.k,
        tile_flops=2.0 * token_tiles * t * row_tiles * n * spec.k,
        cache_bytes=token_tiles * row_tiles * spec.k * (n * size_of + t * activation) + partials,
        programs=row_tiles * token_tiles * slices,
        stage_bytes=k * (n * size_of + t * activation),
        accumulators=n * t,
        steps=spec.k / slices / k * (0.5 if "PROGRAMS" in config else 1),  # bulk copies: no addresses
    )


def _decode(candidate: Candidate, size: int, context: int) -> Work:
    spec, config = candidate.spec, candidate.config
    keys = min(context, spec.window or context)
    width = (spec.head_dim + spec.v_head_dim) * KV_BYTES[spec.kv_dtype]
    rows = max(triton_module("launch").next_power(spec.group), 16)
    num_bytes = float(size * keys * spec.num_kv_heads * width)
    flops = 2.0 * size * keys * spec.num_heads * (spec.head_dim + spec.v_head_dim)
    return Work(
        num_bytes,
        flops,
        flops * rows / spec.group,
        num_bytes,
        programs=config["PROGRAMS"] * spec.num_kv_heads * size,
        stage_bytes=config["BLOCK_KV"] * width / 2,  # K and V are stages of their own
        accumulators=rows * (spec.v_head_dim + config["BLOCK_KV"]),
    )


def _prefill(candidate: Candidate, size: int) -> Work:
    spec, config = candidate.spec, candidate.config
    width = (spec.head_dim + spec.v_head_dim) * KV_BYTES[spec.kv_dtype]
    queries = max(config["BLOCK_M"] // spec.group, 1)
    tiles = ceil(size / queries)
    keys = min(size / 2, spec.window or size)
    flops = 2.0 * size * keys * spec.num_heads * (spec.head_dim + spec.v_head_dim)
    return Work(
        num_bytes=size * (spec.num_kv_heads * width + 4.0 * spec.num_heads * spec.head_dim),
        flops=flops,
        tile_flops=2.0
        * tiles
        * config["BLOCK_M"]
        * (keys + config["BLOCK_KV"])
        * spec.num_kv_heads
        * width
        / 2,
        cache_bytes=tiles * keys * spec.num_kv_heads * width,
        programs=tiles * spec.num_kv_heads,
        stage_bytes=config["BLOCK_KV"] * width / 2,
        accumulators=config["BLOCK_M"] * (spec.v_head_dim + config["BLOCK_KV"]),
    )


def _rows(kernel: str, candidate: Candidate, size: int) -> Work:
    """Kernels that only move rows: by their bytes."""
    spec = candidate.spec
    if kernel == "embedding":
        each = spec.width * (_weight_bytes(spec) + 2.0)
    elif kernel == "kv_cache":
        each = 2.0 * spec.num_kv_heads * (spec.head_dim + spec.v_head_dim) * KV_BYTES[spec.kv_dtype]
    else:
        each = 12.0 * spec.vocab_size
    return Work(each * size, 0.0, 0.0, each * size, size, 0, 0)
