"""A row kernel: the loops that compute some row ops of one token, and the values they store: its outputs, and
local arrays that several loops read.
"""

from dataclasses import dataclass, field

from pagedc.compiler.graph import Node
from pagedc.compiler.rows.affine import Affine, Var


@dataclass(frozen=True, slots=True)
class Expr:
    """A scalar: a `load` of a stored value, a `number`, an `index` as a value, or an op of others."""

    op: str
    args: tuple["Expr", ...] = ()
    dtype: str = "float32"
    value: Node | None = None  # of a load
    offset: Affine | None = None  # of a load or an index
    stride: int = 0  # of a load whose last argument is a computed position
    number: float | int | bool = 0


@dataclass(frozen=True, slots=True)
class Box:
    """Nested loops around one expression, stored at `offset` of the stage's value."""

    loops: tuple[Var, ...]
    reduced: tuple[Var, ...]  # inner loops of a reduction
    expr: Expr
    offset: Affine


@dataclass(slots=True)
class Stage:
    """The loops that fill one stored value."""

    node: Node
    boxes: list[Box] = field(default_factory=list)


@dataclass(slots=True)
class RowKernel:
    """Stages in order; `inputs` and `outputs` are values that live outside."""

    stages: list[Stage]
    inputs: list[Node]
    outputs: list[Node]

    @property
    def locals(self) -> list[Node]:
        """Stored values that no one else reads."""
        return [stage.node for stage in self.stages if stage.node not in self.outputs]
