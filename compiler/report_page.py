"""report.html: the package, the kernels that were timed, and their places under the roofline."""

import math
from typing import NamedTuple

from pagedc.compiler.package_files import facts
from pagedc.compiler.render import environment
from pagedc.compiler.report import achieved, left_out
from pagedc.compiler.tuning import TunedKernel, Tuning
from pagedc.runtime.manifest import Manifest

WIDTH, HEIGHT = 640, 360  # of the picture, in its own units
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 20, 44  # of its frame


class Point(NamedTuple):
    """A kernel in the picture."""

    x: float
    y: float
    title: str


class Tick(NamedTuple):
    """A number beside an axis, and where."""

    place: float
    text: str


class Roofline(NamedTuple):
    """A picture on logarithmic axes: operations a byte, operations a second."""

    roof: str  # points of a line: the bandwidth's slope, then the peak
    points: list[Point]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def report_page(manifest: Manifest, tuning: Tuning, source: str) -> str:
    """The page: the same text for the same facts. No script, nothing from elsewhere."""
    rows = [row for row in tuning.kernels if row.microseconds is not None or tuning.arch]
    return (
        environment()
        .get_template("package/report.html.jinja")
        .render(
            name=manifest.model.name,
            facts=facts(manifest, source),
            tuning=tuning,
            rows=[(row, left_out(row), achieved(row)) for row in rows],
            is_timed=any(row.microseconds is not None for row in rows),
            roofline=roofline(tuning),
            width=WIDTH,
            height=HEIGHT,
            left=LEFT,
            right=WIDTH - RIGHT,
            top=TOP,
            bottom=HEIGHT - BOTTOM,
        )
    )


def roofline(tuning: Tuning) -> Roofline | None:
    """None where the machine's limits or no kernel is known."""
    bandwidth, peak = tuning.read_bandwidth, tuning.peak
    placed = [(row, each) for row in tuning.kernels if (each := _achieved(row, bandwidth, peak)) is not None]
    if not placed or not bandwidth or not peak:
        return None
    intensities = [row.intensity for row, _ in placed if row.intensity] + [peak / bandwidth]
    low, high = _decades(min(intensities) / 2, max(intensities) * 2)
    floor, ceiling = _decades(
        min(rate for _, rate in placed) / 2, 2 * max(peak, *(rate for _, rate in placed))
    )

    def x(intensity: float) -> float:
        share = (math.log10(intensity) - low) / (high - low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(rate: float) -> float:
        share = (math.log10(rate) - floor) / (ceiling - floor)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    start = max(10.0**low, 10.0**floor / bandwidth)
    corners = [(start, start * bandwidth), (peak / bandwidth, peak), (10.0**high, peak)]
    return Roofline(
        roof=" ".join(f"{x(intensity)},{y(rate)}" for intensity, rate in corners),
        points=[
            Point(x(row.intensity or 1), y(rate), f"{row.kernel} {row.shape}: {rate / 1e9:.1f} GFLOP/s")
            for row, rate in placed
        ],
        x_ticks=[Tick(x(10.0**n), f"{10.0**n:g}") for n in range(low, high + 1)],
        y_ticks=[Tick(y(10.0**n), f"{10.0**n / 1e9:g}") for n in range(floor, ceiling + 1)],
    )


def _achieved(row: TunedKernel, bandwidth: float | None, peak: float | None) -> float | None:
    """Operations a second."""
    if row.percent_of_limit is None or not row.intensity or not bandwidth or not peak:
        return None
    return row.percent_of_limit / 100 * min(peak, row.intensity * bandwidth)


def _decades(low: float, high: float) -> tuple[int, int]:
    return math.floor(math.log10(low)), math.ceil(math.log10(high))
