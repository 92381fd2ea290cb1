"""Which constants of a linear are tried, by the tier of tokens that they decide about.

A tier's constants act on its own numbers of tokens only, so the best of each tier together are the best. None
changes the operations of an output or their order (kernels/cpu/tile.h): the bits stay whatever is chosen.
"""

from math import lcm
from typing import NamedTuple

from pagedc.kernels.cpu.layout import parse_format

Constants = dict[str, int]
BUCKETS = (1, 4, 16, 64, 512)  # tokens


class Shape(NamedTuple):
    """A linear of `rows` outputs and `columns` inputs."""

    format: str
    rows: int
    columns: int
    stripes: int = 1
    most: int = BUCKETS[-1]  # tokens that it ever sees: logits are wanted of sampled rows alone

    @property
    def symbol(self) -> str:
        """A name in C++."""
        return f"{self.format}_{self.rows}_{self.columns}_{self.stripes}"

    @property
    def cpp(self) -> str:
        """The arguments of its template."""
        return f"{parse_format(self.format).cpp_type}, {self.rows}, {self.columns}"

    def row(self, tokens: int) -> str:
        """Its name in a tuning table."""
        stripes = f" stripes={self.stripes}" if self.stripes > 1 else ""
        return f"T={tokens} N={self.rows} K={self.columns} {self.format}{stripes}"


class Tier(NamedTuple):
    """Buckets, and the constants that act on them; the first candidate is the default."""

    buckets: tuple[int, ...]
    candidates: tuple[Constants, ...]


# Panels share each x, tokens share each weight; both take registers. `quick` tries the first of each.
ONE: tuple[Constants, ...] = ({"ONE_PANELS": 1}, {"ONE_PANELS": 2}, {"ONE_PANELS": 3})
TILES = {
    "in place": ((8, 2), (6, 4), (6, 3), (12, 2)),
    "decoded": ((4, 2), (4, 1), (6, 1), (3, 3)),
    "unpacked": ((8, 1), (6, 2), (4, 3), (12, 1)),
}
QUICK = 2
AHEAD = (1024, 2048, 4096)
NAMES = ("ONE_PANELS", "TOKENS", "PANELS", "UNPACKED_TOKENS", "UNPACKED_PANELS", "AHEAD")
MAX_TOTALS = 6  # kernels/cpu/linear.h


def tiers(shape: Shape, *, full: bool) -> list[Tier]:
    """What is timed for a shape; `full` adds tiles and how far ahead weights are fetched."""
    kind = parse_format(shape.format)
    buckets = [tokens for tokens in BUCKETS if tokens <= shape.most]
    many = tuple(tokens for tokens in buckets if tokens > 1)
    found = [Tier((1,), ({}, *ONE[: None if full else QUICK]))]
    if not kind.is_integer:
        found.append(Tier(many, _tiles("in place", full=full)))
    elif kind.bits == 4:  # decoded in registers wherever that is fast: see Int4::Unpacked
        found.append(Tier(many, _tiles("decoded", full=full)))
    else:
        few = tuple(tokens for tokens in many if tokens <= 16)
        found.append(Tier(few, _tiles("decoded", full=full)))
        found.append(Tier(tuple(tokens for tokens in many if tokens > 16), _tiles("unpacked", full=full)))
    fit = [Tier(tier.buckets, tuple(c for c in tier.candidates if _fits(shape, c))) for tier in found]
    return [tier for tier in fit if tier.buckets]


def _tiles(where: str, *, full: bool) -> tuple[Constants, ...]:
    prefix = "UNPACKED_" if where == "unpacked" else ""
    chosen = TILES[where] if full else TILES[where][:QUICK]
    tiles = tuple({prefix + "TOKENS": tokens, prefix + "PANELS": panels} for tokens, panels in chosen)
    ahead = tuple({"AHEAD": n} for n in AHEAD) if full and not prefix else ()
    return ({}, *tiles, *ahead)


def _fits(shape: Shape, constants: Constants) -> bool:
    """Whether the totals of a group of tiles have room."""
    kind = parse_format(shape.format)
    totals = 2 if kind.is_integer and kind.group_size == 0 else 1
    panels = [value for name, value in constants.items() if name.endswith("PANELS")]
    return all(lcm(n, shape.stripes) * totals <= MAX_TOTALS for n in panels)


def spelled(constants: Constants) -> str:
    """As a table shows it: "tokens=8 panels=2"."""
    return " ".join(f"{name.lower()}={value}" for name, value in constants.items()) or "default"
