"""What rounding the weights costs: the model with and without it, on a short text.

Both are the Hugging Face module in float32, one after the other in memory, so the figures are those of the
rounding alone; `pagedc verify` measures the program.
"""

import os

import torch
from tokenizers import Tokenizer

from pagedc.compiler.agreement import Comparison
from pagedc.compiler.checkpoint import Checkpoint
from pagedc.compiler.english import ENGLISH
from pagedc.compiler.reference import Reference, rounding_of, unrounded
from pagedc.runtime.manifest import Accuracy, Manifest

NUM_TOKENS = 256
MEMORY_SHARE = 0.6  # of what is available, for the float32 weights of one model


def measure(checkpoint: Checkpoint, manifest: Manifest) -> Accuracy | str:
    """Perplexity and KL of the rounded weights, or why they were not measured."""
    if "tokenizer.json" not in checkpoint.tokenizer_files:
        return "not measured: the checkpoint has no tokenizer"
    needed, available = 4 * manifest.model.num_parameters, _available_memory()
    if needed > MEMORY_SHARE * available:
        return f"not measured: float32 takes {needed / 1e9:.0f} of {available / 1e9:.0f} GB of memory"
    tokenizer = Tokenizer.from_buffer(checkpoint.tokenizer_files["tokenizer.json"])
    length = min(NUM_TOKENS, manifest.limits.max_model_len)
    token_ids: list[int] = tokenizer.encode(ENGLISH, add_special_tokens=False).ids[:length]
    if len(token_ids) < 2 or max(token_ids) >= manifest.model.vocab_size:
        return "not measured: the tokenizer does not fit the model"
    expected = Reference(checkpoint, unrounded).logits(token_ids)
    found = Reference(checkpoint, rounding_of(manifest)).logits(token_ids)
    comparison = Comparison()
    comparison.add(expected, found, torch.tensor(token_ids[1:]))
    result = comparison.result()
    return Accuracy(result.num_tokens, result.perplexity, result.reference_perplexity, result.mean_kl)


def _available_memory() -> int:
    """Bytes that are free now."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
