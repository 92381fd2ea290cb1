from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pagedc.compiler.aten.writes import follow_writes
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


def through_another_view(x: Tensor) -> Tensor:
    y = x * 2
    last, turned = y[1:], y.permute(1, 0)
    y[1:, :1] += 1
    last[:2] = x[2:]
    y += 1
    return last.sum() + turned.reshape(-1)[:2] + y[0]


FOLLOWED = (whole, read_before, through_a_slice, through_another_view)
HIDDEN = (through_a_chunk, with_a_view_of_it)


class Module(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("function", FOLLOWED + HIDDEN)
def test_a_write_that_another_name_sees(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.arange(8.0).view(4, 2)
    with quiet():
        program = torch.export.export(Module(function), (x,), strict=False)
        assert follow_writes(program.graph) is (function in FOLLOWED)
        if function in FOLLOWED:
            assert torch.equal(without_writes(program.graph, x), function(x))
        assert follow_writes(program.run_decompositions().graph)


def without_writes(graph: torch.fx.Graph, x: Tensor) -> Tensor:
    """The result where no node changes its operands."""
    values: dict[torch.fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "output":
            return values[node.args[0][0]]
        else:
            args = torch.fx.map_arg(node.args, lambda source: values[source].clone())
            values[node] = node.target(*args, **node.kwargs)  # type: ignore[operator]
    raise AssertionError
