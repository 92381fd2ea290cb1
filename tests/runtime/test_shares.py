"""Memory and threads of several packages."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.packages import make_package

from pagedc.runtime.config import EngineOptions, MemoryNeed, resolve
from pagedc.runtime.errors import UsageError
from pagedc.runtime.package import read_manifest
from pagedc.runtime.shares import Share, options_of_each, share_memory, share_threads


def test_each_gets_what_it_needs_and_its_part_of_the_rest() -> None:
    needs = [MemoryNeed(50, 100), MemoryNeed(200, 300)]
    assert share_memory(needs, Share(1000)) == [400, 600]
    assert share_memory(needs, Share(1000, (2, 1))) == [500, 500]
    assert share_memory(needs, Share(400)) == [100, 300]
    with pytest.raises(UsageError, match="399 bytes of memory are too few for 2 packages, which need 400"):
        share_memory(needs, Share(399))
    with pytest.raises(UsageError, match="--memory has 3 weights for 2 packages"):
        share_memory(needs, Share(1000, (1, 1, 1)))


@given(st.integers(1, 64), st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
def test_threads_are_all_used_and_nobody_has_none(total: int, weights: list[float]) -> None:
    threads = share_threads(len(weights), Share(total, tuple(weights)))
    assert min(threads) >= 1
    assert sum(threads) == max(total, len(weights))


def test_threads_go_by_weight() -> None:
    assert share_threads(2, Share(8)) == [4, 4]
    assert share_threads(2, Share(8, (3, 1))) == [6, 2]
    assert share_threads(3, Share(2)) == [1, 1, 1]


def test_one_package_gets_all_and_several_fit(tmp_path: Path) -> None:
    paths = [make_package(tmp_path / name) for name in ("a", "b")]
    assert options_of_each(paths[:1], EngineOptions(), None, None) == [EngineOptions()]
    options = options_of_each(paths, EngineOptions(max_num_seqs=2), Share(10**6, (3, 1)), Share(4))
    assert [own.num_threads for own in options] == [2, 2]
    assert sum(own.memory or 0 for own in options) <= 10**6
    for path, own in zip(paths, options, strict=True):
        assert resolve(read_manifest(path), own).num_blocks >= 8
