"""What the kernels of a trial are given while they are timed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedc.compiler.targets.cuda.configs import triton_module
from pagedc.compiler.targets.cuda.points import Point

CONTEXT = 4096  # keys of a decoding sequence
KV_BYTES = 1 << 30  # of a cache, at most
SAMPLING_CELLS = 20

# Not rotated: the step's own, small or written before they are read.
FIXED = {
    "token_ids", "positions", "slot_mapping", "block_tables", "context_lens", "query_start_loc",
    "logits_rows", "scratch", "counters", "sampling", "history_tokens", "bias_tokens", "bias_values",
    "allowed_tokens", "token_ids_out", "logprobs_out", "top_ids_out", "top_logprobs_out",
    "expert_ids", "sinks", "slopes",
}  # fmt: skip


def context_of(point: Point, max_model_len: int) -> int:
    """Keys of each sequence of a point; 0 where it has none."""
    if point.kernel == "attention_prefill":
        return min(point.size, max_model_len)
    if point.kernel != "attention_decode":
        return 0
    spec = point.spec
    room = KV_BYTES // (point.size * spec.bytes_per_block) * spec.block_size
    return int(max(min(CONTEXT, max_model_len, room), 1))


def operand_bytes(point: Point, given: dict[str, int], context: int) -> dict[str, int]:
    """Bytes of what is rotated; a cache has blocks for all of the point's sequences."""
    found = {name: size for name, size in given.items() if name not in FIXED}
    for name in ("k_cache", "v_cache"):
        if name in found:
            found[name] *= _num_blocks(point, context)
    return found


def step_inputs(point: Point, width: int, max_num_seqs: int, context: int) -> dict[str, NDArray[Any]]:
    """The step's arrays that decide what a kernel does. `width`: blocks of a row of the block tables."""
    rng, size, spec = np.random.default_rng(1), point.size, point.spec
    match point.kernel:
        case "attention_decode":
            blocks = -(-context // spec.block_size)
            tables = np.zeros((size, width), np.int32)
            tables[:, :blocks] = rng.permutation(size * blocks).reshape(size, blocks)
            starts = np.arange(size + 1)
            return {"block_tables": tables} | _int32(context_lens=[context] * size, query_start_loc=starts)
        case "attention_prefill":
            blocks = -(-context // spec.block_size)
            tables = np.zeros((max_num_seqs, width), np.int32)
            tables[0, :blocks] = rng.permutation(blocks)
            lens = [context, *[0] * (max_num_seqs - 1)]
            return {"block_tables": tables} | _int32(
                context_lens=lens, query_start_loc=[0, *[context] * max_num_seqs]
            )
        case "kv_cache":
            return {"slot_mapping": np.arange(size, dtype=np.int64)}
        case "embedding":
            return _int32(token_ids=rng.integers(0, spec.vocab_size, size))
        case "grouped_linear":
            ids = [rng.permutation(spec.experts)[: spec.top_k] for _ in range(size)]
            return _int32(expert_ids=np.concatenate(ids))
        case "sampling":
            logits = triton_module("sampling_logits")
            table = np.zeros((size, SAMPLING_CELLS), np.int32)
            table[:, [logits.FORCED_TOKEN.value, logits.MASK_ROW.value]] = -1
            table.view(np.float32)[
                :, [logits.TEMPERATURE.value, logits.TOP_P.value, logits.REPETITION.value]
            ] = 1
            return {"sampling": table}
    return {}


def _num_blocks(point: Point, context: int) -> int:
    block_size: int = point.spec.block_size
    if point.kernel == "kv_cache":
        return -(-point.size // block_size)
    sequences = point.size if point.kernel == "attention_decode" else 1
    return sequences * -(-context // block_size)


def _int32(**arrays: Any) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(values, np.int32) for name, values in arrays.items()}
