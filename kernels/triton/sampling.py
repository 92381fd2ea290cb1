"""Choose the next token of every row of logits, on the device.

Log probabilities are of the raw logits. The choice is made after, in this order: logit bias, allowed tokens,
repetition, presence and frequency penalties; temperature 0 takes the largest (of equals the lowest id); else
temperature, top-k, top-p, min-p, and a draw over the sum in order of ids, by a number that is a function of
(seed, counter) alone. Three kernels: history is counted, chunks of rows are processed and measured by many
programs, and a program a row chooses from their measures.
"""

from dataclasses import dataclass

import torch

from pagedc.kernels.triton.launch import KernelConfig, Launch, ceil_div, config, next_power
from pagedc.kernels.triton.sampling_choice import choose_kernel
from pagedc.kernels.triton.sampling_logits import count_history_kernel, process_kernel

TABLE_WORDS = 20  # int32 words of a row of the sampling table: `pagedc_sampling`


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpec:
    """What is compiled in."""

    vocab_size: int
    max_logprobs: int  # width of the arrays of most likely tokens; 0 = none


def defaults(spec: SamplingSpec, bucket: int) -> KernelConfig:
    """Not tuned: 4096 logits a program. The chunks decide the order of sums: one choice for all buckets."""
    return config(16, 1, CHUNK=4096)


def candidates(spec: SamplingSpec, bucket: int) -> list[KernelConfig]:
    """Logits × warps."""
    return [config(warps, 1, CHUNK=chunk) for chunk in (2048, 4096, 8192) for warps in (8, 16)]


def scratch_sizes(spec: SamplingSpec, config: KernelConfig, num_rows: int) -> tuple[int, int]:
    """(float32 values of `scratch`, int32 values of `counters`) for so many rows."""
    chunks = ceil_div(spec.vocab_size, config["CHUNK"])
    return num_rows * (5 * chunks + spec.vocab_size), num_rows * spec.vocab_size


def launch_sampling(
    spec: SamplingSpec,
    config: KernelConfig,
    logits: torch.Tensor,  # float32 [R, vocab_size], any row stride; left as they are
    table: torch.Tensor,  # int32 [R, 20]: the bytes of the step's sampling table
    # int32; this and the next three at addresses that do not change. -1 - r = what row r of the step before
    # chose, whose `token_ids` begin at the same address.
    history_tokens: torch.Tensor,
    bias_tokens: torch.Tensor,  # int32
    bias_values: torch.Tensor,  # float32
    allowed_tokens: torch.Tensor,  # int32 [masks, ceil(vocab_size / 32)], bit set = allowed
    scratch: torch.Tensor,  # float32 [scratch_sizes[0]]
    counters: torch.Tensor,  # int32 [scratch_sizes[1]]: zeros, and zeros again afterwards
    token_ids: torch.Tensor,  # int32 [R]
    logprobs: torch.Tensor,  # float32 [R]; 0 where the row wants none
    top_ids: torch.Tensor,  # int32 [R, max_logprobs]; -1 where the row wants fewer
    top_logprobs: torch.Tensor,  # float32 [R, max_logprobs]
    *,
    pdl: bool = False,
) -> list[Launch]:
    """Three launches."""
    num_rows, chunks = logits.shape[0], ceil_div(spec.vocab_size, config["CHUNK"])
    measured = num_rows * chunks
    measures = {"measures": scratch[: 4 * measured], "places": scratch[4 * measured :].view(torch.int32)}
    processed = scratch[5 * measured :]
    shape = {"VOCAB": spec.vocab_size}
    chunked = {**shape, "LOGITS_STRIDE": logits.stride(0), "NUM_CHUNKS": chunks, "CHUNK": config["CHUNK"]}
    count = Launch(
        count_history_kernel,
        (num_rows, 1, 1),
        {"table": table, "history_tokens": history_tokens, "chosen": token_ids, "counts": counters},
        {**shape, "BLOCK": 1024},
        4,
        1,
        pdl,
    )
    process = Launch(
        process_kernel,
        (chunks, num_rows, 1),
        {
            "logits": logits,
            "table": table,
            "bias_tokens": bias_tokens,
            "bias_values": bias_values,
            "allowed_tokens": allowed_tokens,
            "counts": counters,
            "processed": processed,
            **measures,
        },
        chunked,
        config.num_warps,
        config.num_stages,
        pdl,
    )
    choose = Launch(
        choose_kernel,
        (num_rows, 1, 1),
        {
            "logits": logits,
            "table": table,
            "allowed_tokens": allowed_tokens,
            "processed": processed,
            **measures,
            "token_ids": token_ids,
            "logprobs": logprobs,
            "top_ids": top_ids if spec.max_logprobs else None,
            "top_logprobs": top_logprobs if spec.max_logprobs else None,
        },
        {
            **chunked,
            "MAX_LOGPROBS": spec.max_logprobs,
            "BLOCK_CHUNKS": max(next_power(chunks), 2),
            "BLOCK_WORDS": 1024,
        },
        config.num_warps,
        config.num_stages,
        pdl,
    )
    return [count, process, choose]
