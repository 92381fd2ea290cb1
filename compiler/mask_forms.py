"""The forms of masks that the kernels know, found in the values of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

HIDDEN = -1e4  # a bias below this hides a key


class MaskError(Exception):
    """A mask that no kernel knows; the message says what it is."""


class TooManyTokensError(MaskError):
    """An op of the mask fails, most likely for a table that ends before: fewer tokens may do."""


class Mask(NamedTuple):
    """What the token at position p sees: (p - window, p], or its own chunk up to p, or all up to p."""

    window: int = 0
    chunk: int = 0
    slopes: tuple[float, ...] = ()  # of each head, times key position - p; none where all are 0


class Scores(NamedTuple):
    """What becomes of q · k before the softmax: softcap(scale · q·k) + what the mask says."""

    mask: Mask
    scale: float
    softcap: float


def bias_of(mask: torch.Tensor) -> torch.Tensor:
    """[heads, T, T] float64; a boolean mask is true where a key is seen."""
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -torch.inf)
    return mask.reshape(-1, *mask.shape[-2:]).double()


def form_of(bias: torch.Tensor) -> Mask:
    """The form of a bias [heads, T, T]. Raises MaskError."""
    seen = bias > HIDDEN
    if not bool((seen == seen[:1]).all()):
        raise MaskError("heads that see different tokens")
    window, chunk = _visible(seen[0])
    return Mask(window, chunk, _slopes(bias, seen[0]))


def _visible(seen: torch.Tensor) -> tuple[int, int]:
    tokens = seen.shape[-1]
    position = torch.arange(tokens)
    distance = position[:, None] - position[None]
    if bool((seen & (distance < 0)).any()):
        raise MaskError("attention that is not causal; pagedc compiles decoders")
    causal = distance >= 0
    if bool((seen == causal).all()):
        return 0, 0
    window = int(seen[-1].sum())
    if window and bool((seen == (causal & (distance < window))).all()):
        return window, 0
    chunk = int(seen[:, 0].sum())
    same = position[:, None] // max(chunk, 1) == position[None] // max(chunk, 1)
    if chunk and bool((seen == (causal & same)).all()):
        return 0, chunk
    raise MaskError("a mask that is neither causal, a window nor chunks")


def _slopes(bias: torch.Tensor, seen: torch.Tensor) -> tuple[float, ...]:
    """A row's bias may be shifted as a whole: the softmax does not see it."""
    tokens = seen.shape[-1]
    position = torch.arange(tokens, dtype=torch.float64)
    relative = bias - bias.diagonal(dim1=1, dim2=2)[:, :, None]
    slopes = (
        relative[:, -1, -2] / -1.0 if tokens > 1 and bool(seen[-1, -2]) else torch.zeros(len(bias)).double()
    )
    expected = slopes[:, None, None] * (position[None] - position[:, None])
    error = torch.where(seen, relative - expected, 0.0).abs().max()
    if not float(error) <= 1e-5 * max(1.0, float(expected[:, seen].abs().max())):
        raise MaskError("a bias that is not a slope times the distance")
    return tuple(slopes.tolist()) if bool((slopes != 0).any()) else ()


def scores_of(at: Callable[[float], torch.Tensor]) -> Scores:
    """Mask, scale and softcap of an elementwise function of q · k, given its values. Raises MaskError."""
    zero = at(0.0)
    mask = form_of(zero)
    seen = zero > HIDDEN

    def rise(value: float) -> torch.Tensor:
        return (at(value) - zero)[seen]

    scale, softcap = float(rise(4096.0).median()) / 4096, 0.0  # large: a bias rounds away less of it
    if not _near(rise(8192.0), 8192.0 * scale):  # no multiple: a softcap, which large scores reach
        softcap = float(rise(1e8).median())
        scale = float(rise(1e-2).median()) / 1e-2
    for value in (-40.0, -3.0, 1.0, 7.0):
        expected = scale * value
        if softcap:
            expected = softcap * float(torch.tanh(torch.tensor(expected / softcap, dtype=torch.float64)))
        if not scale > 0 or not _near(rise(value), expected):
            raise MaskError("scores that are neither scaled nor capped")
    return Scores(mask, _exact(scale), _exact(softcap))


def _near(found: torch.Tensor, expected: float) -> bool:
    return bool((found - expected).abs().max() <= 2e-4 * max(abs(expected), 1.0))


def _exact(value: float) -> float:
    """Without the noise of float32 arithmetic in the seventh digit where a rounder number is as near."""
    rounded = float(f"{value:.6g}")
    return rounded if abs(rounded - value) <= 2e-7 * abs(value) else value


def solve(first: Any, second: Any, numbers: list[int], stand_ins: list[dict[int, int]]) -> Any:
    """The form at the true numbers, from those at two stand-ins for each: it must follow one of them."""
    if isinstance(first, Scores):
        if not np.allclose(first[1:], second[1:], rtol=1e-6):
            raise MaskError("scores scaled by a size")
        return first._replace(mask=solve(first.mask, second.mask, numbers, stand_ins))
    if not isinstance(first, Mask):  # a mask, and the group of each head
        return solve(first[0], second[0], numbers, stand_ins), first[1]
    if len(first.slopes) != len(second.slopes) or not np.allclose(first.slopes, second.slopes, rtol=1e-5):
        raise MaskError("slopes that depend on a size")

    def size(a: int, b: int) -> int:
        if a == b:
            return a
        shifts = {(n, a - stand_ins[0][n]) for n in numbers if a - stand_ins[0][n] == b - stand_ins[1][n]}
        if len(shifts) != 1 or abs(next(iter(shifts))[1]) > 2:
            raise MaskError(f"a mask whose size follows none of {numbers}")
        return sum(shifts.pop())

    window, chunk = size(first.window, second.window), size(first.chunk, second.chunk)
    return Mask(window, chunk, first.slopes)
