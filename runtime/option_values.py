"""What a word of the command line says: whole numbers, numbers, sizes, times and shares.

Each function is an argparse type, or makes one; it raises ArgumentTypeError that names the word.
"""

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagedc.runtime.share import Share

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number between two, both included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,19}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A number between two, both included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


seconds = number(0, 86400)


def num_bytes(text: str) -> int:
    """Bytes of "8GiB", "500MB" or "123456"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if match is None or match[2] == "i" or not 1 <= (size := float(match[1]) * _UNITS[match[2]]) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 8GiB or 500MB")
    return int(size)


def share(amount: Callable[[str], int]) -> "Callable[[str], Share]":
    """An amount, and by which weights the packages share it: "8GiB:3:1"."""

    def parse(text: str) -> "Share":
        from pagedc.runtime.share import Share

        total, *weights = text.split(":")
        return Share(amount(total), tuple(map(number(0.001, 1e6), weights)))

    return parse


def duration(text: str) -> float:
    """Seconds of "90", "90s", "10m" or "1h"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip().lower())
    if match is None or not 0 < (found := float(match[1]) * _SECONDS[match[2]]) <= 30 * 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 90s, 10m or 1h")
    return found
