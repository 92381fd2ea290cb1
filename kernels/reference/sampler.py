"""The choice of a token in numpy, one row at a time, by a full sort."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MASK32 = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the token of one row is chosen; the fields of `pagedc_sampling`, with the row's own slices."""

    temperature: float = 1.0  # 0 = the largest logit, of equals the lowest id
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0  # 0 = off
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    counter: int = 0
    prompt: tuple[int, ...] = ()
    completion: tuple[int, ...] = ()
    bias: dict[int, float] = field(default_factory=dict)


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: four random words of four words and two."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (b >> 32) ^ x1 ^ k0, b & MASK32, (a >> 32) ^ x3 ^ k1, a & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return x0, x1, x2, x3


def uniform(seed: int, counter: int) -> float:
    """Uniform in [0, 1), 53 bits."""
    words = philox((counter & MASK32, counter >> 32, 0, 0), (seed & MASK32, seed >> 32))
    return float(((words[1] << 32) | words[0]) >> 11) * 2.0**-53


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log softmax of the raw logits."""
    shifted = logits.astype(np.float64) - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def ranking(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Ids by falling logit, equals by rising id."""
    return np.argsort(-logits, kind="stable")


def process(
    logits: NDArray[np.float32], sampling: Sampling, allowed: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Logits after bias, mask and penalties, rounded to float32 after each operation."""
    out = logits.copy()
    for token_id, bias in sampling.bias.items():
        out[token_id] += np.float32(bias)
    if allowed is not None:
        out[~allowed] = -np.inf
    for token_id in {*sampling.prompt, *sampling.completion}:
        count = sampling.completion.count(token_id)
        penalty = np.float32(sampling.repetition_penalty)
        logit = out[token_id] / penalty if out[token_id] > 0 else out[token_id] * penalty
        logit = np.float32(logit - np.float32(sampling.frequency_penalty) * np.float32(count))
        out[token_id] = logit - np.float32(sampling.presence_penalty) if count else logit
    return out


def sample(
    logits: NDArray[np.float32],  # [vocab_size], finite
    sampling: Sampling,
    allowed: NDArray[np.bool_] | None = None,  # [vocab_size]; at least one
) -> int:
    """Return the chosen token."""
    processed = process(logits, sampling, allowed)
    if sampling.temperature == 0:
        return int(np.argmax(processed))
    order = ranking(processed)
    order = order[processed[order] > -np.inf]
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = np.exp((processed[order].astype(np.float64) - processed[order[0]]) / sampling.temperature)
    # Fewest that rank first and reach top_p of what top-k left.
    reached = np.cumsum(weights) >= np.float32(sampling.top_p) * weights.sum()
    num_kept = int(np.argmax(reached)) + 1 if sampling.top_p < 1 else len(order)
    num_kept = min(num_kept, int((weights >= np.float32(sampling.min_p)).sum()))
    kept = np.sort(order[:num_kept])
    weights = np.exp((processed[kept].astype(np.float64) - processed[order[0]]) / sampling.temperature)
    cumulative = np.cumsum(weights)
    chosen = np.argmax(cumulative > uniform(sampling.seed, sampling.counter) * cumulative[-1])
    return int(kept[chosen])
