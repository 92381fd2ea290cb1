"""What is timed, what is chosen, and what of it a program prints."""

import math
from pathlib import Path

import msgspec
import pytest
from tests.compiler.test_report import MANIFEST

from pagedc.compiler.errors import OptionError
from pagedc.compiler.progress import SilentProgress
from pagedc.compiler.targets.cpu import tune as tune_module
from pagedc.compiler.targets.cpu.candidates import MAX_TOTALS, Shape, tiers
from pagedc.compiler.targets.cpu.retune import shapes_of
from pagedc.compiler.targets.cpu.tune import tune
from pagedc.compiler.targets.cpu.tuned import tiles_of, tuned
from pagedc.compiler.tuning import TunedKernel, Tuning, dump_tuning
from pagedc.runtime import manifest

SHAPE = Shape("bf16", 96, 64)
INT4 = Shape("int4_g32_min", 32, 64, most=4)


def row(shape: Shape, tokens: int, **constants: int) -> TunedKernel:
    return TunedKernel("linear", shape.row(tokens), 3, "", constants=constants)


@pytest.mark.parametrize("stripes", [1, 2])
@pytest.mark.parametrize("name", ["f32", "bf16", "int8_g0", "int8_g32", "int4_g32_min", "int4_g64"])
def test_candidates_cover_each_bucket_once_and_have_room(name: str, stripes: int) -> None:
    for full in (False, True):
        found = tiers(Shape(name, 64, 64, stripes), full=full)
        assert sorted(tokens for tier in found for tokens in tier.buckets) == [1, 4, 16, 64, 512]
        for tier in found:
            assert tier.candidates[0] == {}
            assert len({tuple(constants.items()) for constants in tier.candidates}) == len(tier.candidates)
            for constants in tier.candidates:
                panels = [value for key, value in constants.items() if key.endswith("PANELS")]
                totals = 2 if name == "int8_g0" else 1
                assert all(math.lcm(n, stripes) * totals <= MAX_TOTALS for n in panels)


def test_logits_are_timed_for_the_rows_they_are_wanted_of() -> None:
    assert [tier.buckets for tier in tiers(Shape("bf16", 64, 64, most=16), full=False)] == [(1,), (4, 16)]
    assert [tier.buckets for tier in tiers(Shape("bf16", 64, 64, most=1), full=False)] == [(1,)]


def test_a_program_prints_what_differs_from_the_defaults() -> None:
    other = Shape("bf16", 32, 64)
    rows = [row(SHAPE, 1, ONE_PANELS=2), row(SHAPE, 4, TOKENS=8, PANELS=2), row(other, 1)]
    found = tiles_of([SHAPE, other], Tuning("a chip", "quick", rows))
    assert found == [("BF16, 96, 64", "BF16", {"ONE_PANELS": 2, "TOKENS": 8, "PANELS": 2})]


@pytest.mark.parametrize("constants", [{"TOKENS": -1}, {"TOKENS": 1 << 20}, {"x; system(": 1}])
def test_nothing_else_is_printed_into_a_program(constants: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=r"tuning of T=4 N=96 K=64 bf16 has .* which no linear takes"):
        tiles_of([SHAPE], Tuning("a chip", "quick", [row(SHAPE, 4, **constants)]))


def test_a_file_gives_its_rows_and_times_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    kept, stranger = row(SHAPE, 1, ONE_PANELS=1), row(Shape("bf16", 7, 7), 1)
    file.write_bytes(dump_tuning(Tuning("another chip", "full", [stranger, kept], threads=4)))
    with SilentProgress().phase("tune") as phase:
        found = tuned([SHAPE], "native", 1, "none", file, phase)
    assert found == Tuning("another chip", "full", [kept], threads=4)


def test_kernels_are_timed_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEDC_CACHE", str(tmp_path))
    monkeypatch.setattr(tune_module, "ARENA_BYTES", 1 << 21)
    with SilentProgress().phase("tune") as phase:
        found = tuned([INT4, INT4], "native", 1, "quick", None, phase)
        assert [each.shape for each in found.kernels] == [INT4.row(1), INT4.row(4)]
        for each in found.kernels:
            assert each.candidates == 3
            assert each.microseconds is not None
            assert each.microseconds > 0
            assert each.limit in ("bandwidth", "arithmetic")
            assert each.speedup == 1 if each.constants == {} else each.speedup
        assert found.peak is not None
        assert found.threads == 1
        monkeypatch.setattr(tune_module, "_time", None)  # a second time nothing is timed
        assert tuned([INT4], "native", 1, "quick", None, phase) == found


def test_the_best_of_a_tier_is_chosen_and_a_tie_keeps_the_default() -> None:
    tier = tune_module.Tier((4, 16), ({}, {"TOKENS": 4, "PANELS": 2}, {"TOKENS": 8, "PANELS": 1}))
    probes = tune_module._Probes([1e9], {"f32": [1e9], "bf16": [1e9]})

    def samples(*seconds: tuple[float, float]) -> list[tune_module._Sample]:
        return [
            tune_module._Sample(SHAPE, tokens, constants, "", [each[i]])
            for constants, each in zip(tier.candidates, seconds, strict=True)
            for i, tokens in enumerate(tier.buckets)
        ]

    faster = tune_module._choose(SHAPE, tier, samples((2.0, 4.0), (1.0, 2.0), (1.0, 9.0)), probes)
    assert [(each.constants, each.speedup) for each in faster] == [({"TOKENS": 4, "PANELS": 2}, 2.0)] * 2
    same = tune_module._choose(SHAPE, tier, samples((2.0, 4.0), (1.99, 3.99), (2.0, 4.0)), probes)
    assert [(each.constants, each.config) for each in same] == [({}, "default")] * 2
    assert same[0].percent_of_limit == pytest.approx(100 * 96 * 64 * 2 / 1e9 / 2.0 * 4, abs=0.1)


def test_a_gain_that_a_third_of_the_rounds_deny_is_none() -> None:
    tier = tune_module.Tier((1,), ({}, {"ONE_PANELS": 1}))
    probes = tune_module._Probes([1e9], {"f32": [1e9], "bf16": [1e9]})
    default, other = [1.0] * 6, [0.5, 0.5, 0.5, 0.5, 1.5, 1.5]
    samples = [
        tune_module._Sample(SHAPE, 1, constants, "", seconds)
        for constants, seconds in zip(tier.candidates, (default, other), strict=True)
    ]
    assert tune_module._choose(SHAPE, tier, samples, probes)[0].constants == {}


def test_no_shapes_no_time() -> None:
    with SilentProgress().phase("tune") as phase:
        assert tune([], "native", 1, "quick", "", phase).kernels == []


def test_linears_are_found_in_the_text_of_a_program() -> None:
    weights = [manifest.Weight("a", "f", name, [1]) for name in ("bf16", "raw", "int4_g32_min")]
    described = msgspec.structs.replace(MANIFEST, weights=weights)
    text = (Path(__file__).parents[2] / "expected" / "llama.cpp").read_text()
    found = shapes_of(text + "  linear<Int4<32, true>, 32, 64>(s.worker, s.num_tokens * 2, x);", described)
    assert found == [
        Shape("bf16", 128, 64, 1, 64),
        Shape("bf16", 64, 64, 1, 64),
        Shape("bf16", 192, 64, 2, 64),
        Shape("bf16", 64, 96, 1, 64),
        Shape("bf16", 211, 64, 1, 8),
        Shape("int4_g32_min", 32, 64, 1, 64),
    ]
