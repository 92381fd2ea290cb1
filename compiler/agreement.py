"""How near two models are: the logits of the same tokens, compared row by row."""

import math
from typing import NamedTuple

import torch

ROWS = 64  # compared at once: the probabilities of 64 rows of 256 k tokens are 64 MB


class Floors(NamedTuple):
    """What a package must reach."""

    top1_agreement: float = 0.0
    mean_kl: float = math.inf
    perplexity_change: float = math.inf  # relative
    max_relative_error: float = math.inf

    def scaled(self, times: float) -> "Floors":
        """The same of a model in which rounding weighs `times` as much, in KL: that grows by the square of a
        difference, the others by the difference.
        """
        root = math.sqrt(times)
        return self._replace(
            top1_agreement=max(1 - (1 - self.top1_agreement) * root, 0.0),
            mean_kl=self.mean_kl * times,
            perplexity_change=self.perplexity_change * root,
        )


# A float32 package computes what its model does; anything else departs by its rounding: less than the
# model run in bfloat16 by Hugging Face's own code, which reaches 97.1 % and 0.0014 on SmolLM2. Some models
# magnify rounding more: SmolLM2 in 2 bits (a perplexity of 330) reaches 92.8 % and 0.0076 in bfloat16, and
# its package 97.4 % and 0.0011. Their floors are scaled by what bfloat16 does to them.
FLOAT32_FLOORS = Floors(max_relative_error=1e-4)
ROUNDED_FLOORS = Floors(top1_agreement=0.98, mean_kl=0.0008, perplexity_change=0.003)
BFLOAT16_KL = 0.0014
MOST_TIMES = 100.0  # beyond, next to nothing is demanded


class Agreement(NamedTuple):
    """Over all tokens that were compared."""

    num_tokens: int
    top1_agreement: float  # share of rows whose largest logit is the same
    mean_kl: float  # of the package's distribution from the reference's, in nats
    perplexity: float
    reference_perplexity: float
    max_relative_error: float  # over rows: largest difference / largest logit of the reference

    @property
    def perplexity_change(self) -> float:
        """Relative to the reference."""
        return abs(self.perplexity / self.reference_perplexity - 1)

    def shortfalls(self, floors: Floors) -> list[str]:
        """What misses its floor, in words; empty where all is well."""
        missed = []
        if not self.top1_agreement >= floors.top1_agreement:  # also True for NaN, here and below
            missed.append(f"top-1 agreement {self.top1_agreement:.2%} < {floors.top1_agreement:.2%}")
        for name in ("mean_kl", "perplexity_change", "max_relative_error"):
            value, most = getattr(self, name), getattr(floors, name)
            if not value <= most:
                missed.append(f"{name.replace('_', ' ')} {value:.2g} > {most:.2g}")
        return missed


class Comparison:
    """Sums over rows as they come."""

    def __init__(self) -> None:
        self._num_rows = self._num_targets = self._same = 0
        self._kl = self._loss = self._reference_loss = 0.0
        self._error = 0.0

    def add(self, reference: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """reference, logits [n, vocab_size] float32; targets [m]: the tokens that follow the first m rows."""
        for start in range(0, len(reference), ROWS):
            rows = slice(start, start + ROWS)
            self._add(reference[rows], logits[rows], targets[rows])

    def _add(self, reference: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        expected, found = (torch.log_softmax(rows.double(), -1) for rows in (reference, logits))
        self._num_rows += len(reference)
        self._num_targets += len(targets)
        self._same += int((reference.argmax(-1) == logits.argmax(-1)).sum())
        self._kl += float((expected.exp() * (expected - found)).sum())
        chosen = targets[:, None]
        self._reference_loss -= float(expected[: len(targets)].gather(-1, chosen).sum())
        self._loss -= float(found[: len(targets)].gather(-1, chosen).sum())
        largest = reference.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny)
        error = (logits - reference).abs().amax(-1) / largest
        worst = float(error.max())
        self._error = worst if math.isnan(worst) else max(self._error, worst)

    def result(self) -> Agreement:
        """What the sums say; at least one target must have been added."""
        return Agreement(
            num_tokens=self._num_rows,
            top1_agreement=self._same / self._num_rows,
            mean_kl=self._kl / self._num_rows,
            perplexity=_exp(self._loss / self._num_targets),
            reference_perplexity=_exp(self._reference_loss / self._num_targets),
            max_relative_error=self._error,
        )


def _exp(x: float) -> float:
    """Infinite where it is too large, as of logits that damaged weights make; `math.exp` raises."""
    return float(torch.tensor(x, dtype=torch.float64).exp())
