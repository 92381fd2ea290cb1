"""report.html: what it shows, where kernels stand, and that a name is text."""

import xml.etree.ElementTree as ET

import msgspec
import pytest
from tests.compiler.test_report import MANIFEST

from pagedc.compiler.report_page import report_page, roofline
from pagedc.compiler.tuning import TunedKernel, Tuning

ROWS = [
    TunedKernel("linear", "T=1", 3, "panels=2", 10.0, 80.0, 1.2, {"PANELS": 2}, "bandwidth", 1.0),
    TunedKernel("linear", "T=512", 3, "default", 90.0, 50.0, 1.0, {}, "arithmetic", 512.0),
]
TUNING = Tuning("a <chip>", "quick", ROWS, 40e9, 800e9, 2)


def test_a_kernel_lies_under_the_roof_by_its_share() -> None:
    picture = roofline(TUNING)
    assert picture is not None
    corners = [tuple(map(float, corner.split(","))) for corner in picture.roof.split()]
    (_, _), (ridge, peak), (end, flat) = corners
    assert peak == flat
    first, second = picture.points
    assert first.x < ridge < second.x < end
    per_decade = picture.y_ticks[0].place - picture.y_ticks[1].place
    assert second.y - flat == pytest.approx(per_decade * 0.30103, abs=0.2)  # log10 of 2: half of the peak
    assert first.title == "linear T=1: 32.0 GFLOP/s"


def test_nothing_known_no_picture() -> None:
    assert roofline(Tuning("a chip", "none")) is None
    assert roofline(msgspec.structs.replace(TUNING, peak=None)) is None


def test_the_page_is_whole_and_escapes_what_it_is_told() -> None:
    manifest = msgspec.structs.replace(
        MANIFEST, model=msgspec.structs.replace(MANIFEST.model, name="<script>x</script> & co")
    )
    page = report_page(manifest, TUNING, "a <folder>")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "a &lt;chip&gt;, 2 threads: reads 40.0 GB/s, multiplies 800 GFLOP/s" in page
    assert ":root { color-scheme: light dark; }" in page  # of the body it would leave the ground white
    assert page.count("<circle") == 2
    picture = page[page.index("<svg") : page.index("</svg>") + 6]
    ET.fromstring(picture)
    assert page == report_page(manifest, TUNING, "a <folder>")
    assert "No kernel was timed" in report_page(manifest, Tuning("a chip", "none"), "x")
