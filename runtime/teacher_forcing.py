"""Run given tokens through a package and write the logits of every one of them: how a package is measured.

`python -m pagedc.runtime.teacher_forcing PACKAGE` reads one JSON list of token ids a line and writes
float32 logits [tokens, vocab_size] to its output, list after list. A process of its own: what measures
may hold libraries, torch for one, that a package must run without.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from pagedc.runtime.batch import Batch, Executor, Float32
from pagedc.runtime.config import EngineConfig, EngineOptions, resolve
from pagedc.runtime.errors import PagedcError, UsageError
from pagedc.runtime.executors import open_executor
from pagedc.runtime.package import Package
from pagedc.runtime.row_template import NO_TOKENS, NO_VALUES, forced_rows

# The end of a sequence goes token by token, as a generated one would; the rest in chunks.
NUM_DECODED = 64


def teacher_force(executor: Executor, config: EngineConfig, token_ids: list[int]) -> Iterator[Float32]:
    """Logits [n, vocab_size] of the next n tokens, until all have had theirs; the KV cache is overwritten."""
    chunk = min(config.max_num_batched_tokens, config.max_num_rows)
    decoded = max(len(token_ids) - NUM_DECODED, 1)  # the first of them
    start = 0
    while start < len(token_ids):
        end = min(start + chunk, decoded) if start < decoded else start + 1
        result = executor.step(_batch(token_ids, start, end, config), want_logits=True)
        assert result.logits is not None  # it was asked for
        yield result.logits
        start = end


def _batch(token_ids: list[int], start: int, end: int, config: EngineConfig) -> Batch:
    """Tokens start … end of the one sequence there is: its blocks are 0, 1, …"""
    positions = np.arange(start, end, dtype=np.int32)
    num_blocks = -(-end // config.block_size)
    ids = np.array(token_ids[start:end], np.int32)
    return Batch(
        token_ids=ids,
        positions=positions,
        slot_mapping=positions.astype(np.int64),
        block_tables=np.arange(num_blocks, dtype=np.int32)[None],
        context_lens=np.array([end], np.int32),
        query_start_loc=np.array([0, end - start], np.int32),
        state_slots=np.zeros(1, np.int32),
        logits_rows=np.arange(end - start, dtype=np.int32),
        sampling=forced_rows(ids, -1),
        history_tokens=NO_TOKENS,
        bias_tokens=NO_TOKENS,
        bias_values=NO_VALUES,
        allowed_tokens=np.empty((0, -(-config.vocab_size // 32)), np.uint32),
    )


def main(argv: list[str] | None = None) -> int:
    """Read lists from stdin until it ends; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pagedc.runtime.teacher_forcing")
    parser.add_argument("package", type=Path)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(argv)
    try:
        # Damaged weights are measured too: where they depart says which.
        _serve(Package.open(options.package), options.threads)
    except PagedcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _serve(package: Package, num_threads: int | None) -> None:
    config = resolve(package.manifest, EngineOptions(max_num_seqs=1, num_threads=num_threads))
    executor = open_executor(package, config)
    try:
        for line in sys.stdin:
            token_ids = msgspec.json.decode(line, type=list[int])
            if not 0 < len(token_ids) <= config.max_model_len:
                raise UsageError(f"{len(token_ids)} tokens, not in [1, {config.max_model_len}]")
            for logits in teacher_force(executor, config, token_ids):
                sys.stdout.buffer.write(np.ascontiguousarray(logits).data)
            sys.stdout.buffer.flush()
    finally:
        executor.close()


if __name__ == "__main__":
    sys.exit(main())
