"""The table of ops: for each of ATen's, the function that makes nodes of it."""

from collections.abc import Callable
from typing import Any, TypeVar

COMPLEX = "complex"  # the table's entry for every op that reads complex values and is not theirs
PARTS = "parts"  # … that reads tokens repeated for each of several parts: compiler/aten/parts.py
SHIFTED = "shifted"  # … a few tokens more or less than the sequence: compiler/aten/shifted.py
PAIRS = "pairs"  # the table's entry for every op on values with two token axes

OpFunction = TypeVar("OpFunction", bound=Callable[..., Any])
TABLE: dict[str, Callable[..., Any]] = {}


def op(*names: str) -> Callable[[OpFunction], OpFunction]:
    """Register a function for ATen ops: f(importer, *arguments, **keywords) -> Value or tuple of them."""

    def register(function: OpFunction) -> OpFunction:
        TABLE.update(dict.fromkeys(names, function))
        return function

    return register


class NoRuleError(Exception):
    """No function in the table knows an op: the caller may decompose further, or refuse."""

    def __init__(self, op: str, where: str) -> None:
        super().__init__(op)
        self.op = op
        self.where = where
