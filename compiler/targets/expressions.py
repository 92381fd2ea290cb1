"""Print a scalar expression: what the languages of all targets have in common."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from pagedc.compiler.errors import InternalError
from pagedc.compiler.graph import Node
from pagedc.compiler.rows.affine import Affine
from pagedc.compiler.rows.kernel import Expr

ARITHMETIC = {
    "add": "({} + {})",
    "sub": "({} - {})",
    "mul": "({} * {})",
    "div": "({} / {})",
    "eq": "({} == {})",
    "ne": "({} != {})",
    "lt": "({} < {})",
    "le": "({} <= {})",
    "gt": "({} > {})",
    "ge": "({} >= {})",
    "neg": "(-{})",
}


class ExpressionPrinter(ABC):
    """Prints one expression; what is used more than once becomes a variable."""

    forms: ClassVar[Mapping[str, str]]  # op → its text around those of its arguments

    def __init__(self, root: Expr) -> None:
        self._uses: Counter[int] = Counter()
        self._known: dict[int, str] = {}
        self._count(root)

    def _count(self, expr: Expr) -> None:
        self._uses[id(expr)] += 1
        if self._uses[id(expr)] == 1:
            for arg in expr.args:
                self._count(arg)

    def text(self, expr: Expr) -> str:
        """The expression, or the name of the variable that holds it."""
        if self._uses[id(expr)] == 1 or self.is_cheap(expr):
            return self._text(expr)
        if id(expr) not in self._known:
            self._known[id(expr)] = self.variable(expr, self._text(expr))
        return self._known[id(expr)]

    def _text(self, expr: Expr) -> str:
        match expr.op:
            case "number":
                return self.number(expr)
            case "load":
                if expr.value is None or expr.offset is None:
                    raise InternalError("a load of nothing")
                return self.load(expr, expr.value, expr.offset)
            case "cast":
                value = self.text(expr.args[0])
                if expr.dtype == "bfloat16" or expr.args[0].dtype == expr.dtype:
                    return value  # rounded where it is stored
                return self.cast(expr, value)
        return self.operation(expr)

    def operation(self, expr: Expr) -> str:
        """An op of other values, in parentheses where there is an operator."""
        if expr.op not in self.forms:
            raise InternalError(f"{type(self).__name__} has no {expr.op}")
        return self.forms[expr.op].format(*map(self.text, expr.args))

    def is_cheap(self, expr: Expr) -> bool:
        """Whether it is written out at each use."""
        return expr.op == "number"

    @abstractmethod
    def variable(self, expr: Expr, value: str) -> str:
        """Declare a variable of that value; its name."""

    @abstractmethod
    def number(self, expr: Expr) -> str:
        """A literal."""

    @abstractmethod
    def load(self, expr: Expr, node: Node, offset: Affine) -> str:
        """A stored value, as the type that is computed with."""

    @abstractmethod
    def cast(self, expr: Expr, value: str) -> str:
        """To another type than the value's."""


def decimal(number: float) -> str:
    """A float32 that reads back as it was, with a point or an exponent."""
    text = f"{number:.9g}"
    return text if "." in text or "e" in text else f"{text}.0"
