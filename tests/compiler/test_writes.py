from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pagedc.compiler.aten.writes import hides_writes
from pagedc.compiler.trace import quiet


def whole(x: Tensor) -> Tensor:
    y = x * 2
    y += 1
    return y.view(-1)


def read_before(x: Tensor) -> Tensor:
    y = x * 2
    z = y * 3
    y += 1
    return y + z


def through_a_slice(x: Tensor) -> Tensor:
    y = x * 2
    y[1:] += 1
    return y


def through_a_chunk(x: Tensor) -> Tensor:
    y = x * 2
    first, _ = y.chunk(2)
    first.mul_(3)
    return y


def with_a_view_of_it(x: Tensor) -> Tensor:
    y = x * 2
    z = y.view(-1)
    y += 1
    return z


SEEN = (whole, read_before)
HIDDEN = (through_a_slice, through_a_chunk, with_a_view_of_it)


@pytest.mark.parametrize("function", SEEN + HIDDEN)
def test_a_write_that_another_name_sees(function: Callable[[Tensor], Tensor]) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    with quiet():
        program = torch.export.export(Module(), (torch.ones(4, 2),), strict=False)
        assert hides_writes(program.graph) is (function in HIDDEN)
        assert not hides_writes(program.run_decompositions().graph)
