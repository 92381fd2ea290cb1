"""The tuning table: the same bytes for the same rows, files people name, the cache between compiles."""

from pathlib import Path

import pytest

from pagedc.compiler.errors import OptionError
from pagedc.compiler.tuning import (
    TunedKernel,
    Tuning,
    TuningCache,
    dump_tuning,
    read_tuning,
    source_hash,
)

SHAPE = "T=1 N=960 K=576 bf16"
ROW = TunedKernel("linear", SHAPE, 3, "panels=2", 12.5, 80.0, 1.1, {"PANELS": 2}, "bandwidth", 1.0)
TUNING = Tuning("a chip", "quick", [ROW], 40e9, 900e9, 2, "cafe")


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_bytes(dump_tuning(TUNING))
    assert read_tuning(path) == TUNING
    assert dump_tuning(read_tuning(path)) == path.read_bytes()


@pytest.mark.parametrize("text", ["", "[]", '{"device": "a chip"}', '{"device": "", "mode": "slow"}'])
def test_a_file_that_is_no_tuning_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"tuning\.json is not a tuning file"):
        read_tuning(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.json cannot be read: No such file"):
        read_tuning(tmp_path / "none.json")


def test_the_cache_adds_rows_and_renews_those_it_has(tmp_path: Path) -> None:
    cache = TuningCache(tmp_path, "A Chip (2)", "cafe", 2, "quick")
    assert cache.load() is None
    cache.store(TUNING)
    renewed = TunedKernel("linear", ROW.shape, 3, "panels=1", 10.0)
    other = TunedKernel("linear", "T=4 N=960 K=576 bf16", 1, "")
    cache.store(Tuning("a chip", "quick", [renewed, other], 41e9, 900e9, 2, "cafe"))
    found = cache.load()
    assert found is not None
    assert found.kernels == [renewed, other]
    assert found.read_bandwidth == 41e9


def test_a_damaged_or_read_only_cache_is_as_none(tmp_path: Path) -> None:
    cache = TuningCache(tmp_path, "chip", "cafe", 2, "quick")
    cache.path.parent.mkdir()
    cache.path.write_text("{")
    assert cache.load() is None
    TuningCache(cache.path, "chip", "cafe", 2, "quick").store(TUNING)  # below a file: no folder can be made


def test_the_source_hash_sees_text_names_and_flags(tmp_path: Path) -> None:
    first, second = tmp_path / "a.h", tmp_path / "b.h"
    first.write_text("1")
    second.write_text("2")
    base = source_hash([first, second], "-O3")
    assert source_hash([second, first], "-O3") == base
    assert source_hash([first, second], "-O2") != base
    second.write_text("3")
    assert source_hash([first, second], "-O3") != base
