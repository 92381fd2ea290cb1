"""How loops become blocks of a Triton program: which element a lane holds, and how an index is spelled."""

from dataclasses import dataclass
from math import prod

from pagedc.compiler.rows.affine import Affine, Var

MAX_BLOCK = 4096  # elements of a block: 16 registers a thread of 8 warps


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << max(size - 1, 0).bit_length()


@dataclass(frozen=True, slots=True)
class Axis:
    """Nested loops flattened into one index `name`, which runs over blocks of `block` elements."""

    name: str
    loops: tuple[Var, ...]
    block: int
    suffix: str = ""  # `[:, None]` of an axis of a two-dimensional block

    @property
    def size(self) -> int:
        """Iterations of all loops."""
        return prod(var.size for var in self.loops)

    @property
    def is_whole(self) -> bool:
        """Whether no lane is idle."""
        return self.size % self.block == 0

    @property
    def mask(self) -> str:
        """Which lanes are at work; empty where all are."""
        return "" if self.is_whole else f"({self.name}{self.suffix} < {self.size})"

    def spell(self, offset: Affine) -> list[str]:
        """The terms of `offset` over this axis' loops. Loops that lie as one in memory stay one index."""
        factors = dict(offset.terms)
        loops = [var for var in self.loops if var.size > 1]
        terms = []
        inner = 1  # iterations of the loops inside those that are spelled
        while loops:
            group = [loops.pop()]
            size, factor = group[0].size, factors.get(group[0], 0)
            while loops and factor and factors.get(loops[-1], 0) == factor * size:
                size *= loops.pop().size
            if factor:
                text = f"{self.name}{self.suffix}"
                text += f" // {inner}" if inner > 1 else ""
                text += f" % {size}" if loops else ""
                text = f"({text})" if inner > 1 or loops else text
                terms.append(text if factor == 1 else f"{factor} * {text}")
            inner *= size
        return terms[::-1]


@dataclass(frozen=True, slots=True)
class Tile:
    """One or two axes, or none for a single value."""

    axes: tuple[Axis, ...] = ()

    @property
    def shape(self) -> str:
        """As Triton takes it."""
        return f"({', '.join(str(axis.block) for axis in self.axes)}{',' * (len(self.axes) == 1)})"

    @property
    def mask(self) -> str:
        """Which lanes are at work; empty where all are."""
        return " & ".join(axis.mask for axis in self.axes if axis.mask)

    def spell(self, offset: Affine) -> str:
        """`3 * (i % 4) + 7`."""
        terms = [term for axis in self.axes for term in axis.spell(offset)]
        if offset.constant or not terms:
            terms.append(str(offset.constant))
        return " + ".join(terms)


def flat(name: str, loops: tuple[Var, ...]) -> Tile:
    """All loops as one axis."""
    size = prod(var.size for var in loops)
    return Tile() if size == 1 else Tile((Axis(name, loops, min(power_of_two(size), MAX_BLOCK)),))


def table(names: tuple[str, str], rows: tuple[Var, ...], columns: tuple[Var, ...], whole: bool) -> Tile:
    """Rows by columns; `whole` keeps a row in one block."""
    num_rows, num_columns = (power_of_two(prod(var.size for var in loops)) for loops in (rows, columns))
    width = num_columns if whole else min(num_columns, MAX_BLOCK if num_rows == 1 else 1024)
    height = min(num_rows, max(MAX_BLOCK // width, 1))
    return Tile((Axis(names[0], rows, height, "[:, None]"), Axis(names[1], columns, width, "[None, :]")))
