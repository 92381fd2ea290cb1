"""Index arithmetic: sums of loop variables times constants, with exact division."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Var:
    """A loop variable that runs over [0, size)."""

    name: str
    size: int


class SplitVarError(Exception):
    """The index is only affine if `var` becomes two loops, the inner of `factor` steps."""

    def __init__(self, var: Var, factor: int) -> None:
        super().__init__(f"{var.name} by {factor}")
        self.var = var
        self.factor = factor


class NotAffineError(Exception):
    """No split of a loop makes the index affine."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Σ coefficient · variable + constant."""

    terms: tuple[tuple[Var, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(var: Var) -> "Affine":
        """The variable itself; 0 where it takes one value."""
        return Affine(((var, 1),)) if var.size > 1 else Affine()

    def __add__(self, other: "Affine") -> "Affine":
        total: dict[Var, int] = dict(self.terms)
        for var, factor in other.terms:
            total[var] = total.get(var, 0) + factor
        terms = tuple((var, factor) for var, factor in total.items() if factor)
        return Affine(tuple(sorted(terms, key=lambda term: term[0].name)), self.constant + other.constant)

    def __mul__(self, factor: int) -> "Affine":
        if factor == 0:
            return Affine()
        return Affine(tuple((var, value * factor) for var, value in self.terms), self.constant * factor)

    def shift(self, constant: int) -> "Affine":
        """The index plus a number."""
        return Affine(self.terms, self.constant + constant)

    @property
    def low(self) -> int:
        """Its smallest value."""
        return self.constant + sum(min(0, factor * (var.size - 1)) for var, factor in self.terms)

    @property
    def high(self) -> int:
        """Its largest value."""
        return self.constant + sum(max(0, factor * (var.size - 1)) for var, factor in self.terms)

    def substitute(self, var: Var, value: "Affine") -> "Affine":
        """The index with a variable replaced."""
        factor = dict(self.terms).get(var)
        if factor is None:
            return self
        return Affine(tuple(term for term in self.terms if term[0] != var), self.constant) + value * factor

    def divide(self, size: int) -> tuple["Affine", "Affine"]:
        """Quotient and remainder by `size`. Raises SplitVarError or NotAffineError."""
        whole = Affine(tuple((var, factor // size) for var, factor in self.terms if factor % size == 0))
        rest = Affine(tuple((var, factor) for var, factor in self.terms if factor % size), self.constant)
        carry = rest.low // size
        if carry == rest.high // size:
            return whole.shift(carry), rest.shift(-carry * size)
        for var, factor in sorted(rest.terms, key=lambda term: -abs(term[1])):
            if (
                factor > 0
                and size % factor == 0
                and var.size % (size // factor) == 0
                and var.size > size // factor
            ):
                raise SplitVarError(var, size // factor)
        raise NotAffineError


def flatten(index: tuple[Affine, ...], shape: tuple[int, ...]) -> Affine:
    """Row-major offset of an index."""
    offset, stride = Affine(), 1
    for part, size in zip(reversed(index), reversed(shape), strict=True):
        offset += part * stride
        stride *= size
    return offset


def unflatten(offset: Affine, shape: tuple[int, ...]) -> tuple[Affine, ...]:
    """The index of a row-major offset. Raises SplitVarError or NotAffineError."""
    index = []
    for size in reversed(shape):
        if size == 1:
            index.append(Affine())
            continue
        offset, part = offset.divide(size)
        index.append(part)
    return tuple(reversed(index))
