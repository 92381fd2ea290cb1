"""The sizes that launches are planned for: a step is padded to the next one."""

from pagedc.runtime.manifest import Limits

# Rows of logits beyond one a sequence; EngineConfig counts on as many.
PROMPT_LOGPROB_ROWS = 32


def sequence_buckets(limit: int) -> list[int]:
    """1, 2, 4, then every 8 up to 64, every 16 up to 256, every 64: what decoding is captured for."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, limit, 64)]
    return [*(size for size in sizes if size < limit), limit]


def token_buckets(limit: int) -> list[int]:
    """Those of sequences up to 64, then every 64 up to 512, every 128 up to 2048, every 256."""
    sizes = [*sequence_buckets(64), *range(128, 512, 64), *range(512, 2048, 128), *range(2048, limit, 256)]
    return [*(size for size in sizes if size < limit), limit]


def buckets_of(limits: Limits) -> dict[str, list[int]]:
    """By dimension: S sequences, T tokens of a step, R rows of logits. S and R of a decode equal its T."""
    sequences = sequence_buckets(limits.max_num_seqs)
    return {
        "S": sequences,
        "T": sorted({*token_buckets(limits.max_num_batched_tokens), *sequences}),
        "R": sorted({*sequence_buckets(limits.max_num_seqs + PROMPT_LOGPROB_ROWS), *sequences}),
    }
