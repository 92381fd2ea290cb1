"""Padding, cuts, convolutions and windows of tokens mean what torch says they mean, or are refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.interpret import run
from pagedc.compiler.trace import quiet

WIDTH = 8
IDS = torch.arange(11)[None]
TAPS = torch.linspace(-1, 1, 3 * WIDTH).view(WIDTH, 1, 3)
GROUPED = torch.linspace(1, -1, 12 * WIDTH).view(WIDTH, 4, 3)
BIAS = torch.linspace(0, 1, WIDTH)


class Around(torch.nn.Module):
    """A function between an embedding, [1, T, WIDTH], and the logits."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(16, WIDTH)
        self.function = function

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.function(self.embedding(token_ids))


def imported(function: Callable[[Tensor], Tensor]) -> float:
    """The largest error of the graph. Raises UnsupportedError."""
    model = Around(function).eval()
    shapes = ({1: torch.export.Dim.DYNAMIC},)
    with quiet(), torch.no_grad():
        program = torch.export.export(model, (IDS,), dynamic_shapes=shapes, strict=False).run_decompositions()
        expected = model(IDS)[0].numpy()
    graph = Importer(program, {}, {}).run()
    graph.sort()
    graph.verify()
    found = run(
        graph, {"embedding.weight": model.embedding.weight.detach().numpy()}.__getitem__, IDS[0].numpy()
    )
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    return float(np.abs(np.nan_to_num(found) - np.nan_to_num(expected)).max())


def along(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, of channels [1, WIDTH, T]."""
    return lambda x: function(x.transpose(1, 2)).transpose(1, 2)


def padded(x: Tensor, count: int) -> Tensor:
    return functional.pad(x, (count, 0))


def twice(x: Tensor) -> Tensor:
    """The zeros in front of the second one's tokens are the first one's bias."""
    once = functional.conv1d(padded(x, 4), TAPS, BIAS, groups=WIDTH)
    return functional.conv1d(once, GROUPED, BIAS, groups=2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.pad(x, (0, 0, 2, -2)),
        along(lambda x: padded(x, 0)),
        along(lambda x: functional.conv1d(padded(x, 2), TAPS, BIAS, groups=WIDTH)),
        along(lambda x: functional.conv1d(x, TAPS, padding=2, groups=WIDTH)[..., :-2]),
        along(twice),
        along(lambda x: (padded(x, 2).unfold(2, 3, 1) * TAPS[0, 0]).sum(-1)),
        lambda x: torch.cat([BIAS.expand(1, 1, -1), x[:, :-1]], 1),
        lambda x: x.unflatten(2, (2, 2, 2)).flip((2, 4)).flatten(2),
        lambda x: torch.logsumexp(torch.where(x > 1.0, x, -torch.inf), 2, keepdim=True) + x,
    ],
    ids=["delay", "no padding", "conv", "conv cut", "two convs", "windows", "join", "flip", "all -inf"],
)
def test_is_what_torch_computes(function: Callable[[Tensor], Tensor]) -> None:
    assert imported(function) < 1e-5


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (along(lambda x: functional.pad(x, (-1, 1))), "padding other than zeros in front"),
        (
            lambda x: functional.pad(x.view(1, -1, 4), (0, 0, 1, -1)).view(1, -1, 8),
            "a delay of parts of tokens",
        ),
        (along(lambda x: functional.conv1d(padded(x, 4), TAPS, groups=WIDTH, dilation=2)), "not causal"),
        (lambda x: torch.cat([x[:, :-1], BIAS.expand(1, 1, -1)], 1), "tokens joined to tokens"),
        (lambda x: x[:, :-1], "logits that are not of each token"),
        (lambda x: x.flip(1), "an op over tokens"),
    ],
    ids=["look ahead", "half tokens", "dilated", "join behind", "cut", "turned around"],
)
def test_is_refused(function: Callable[[Tensor], Tensor], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        imported(function)
