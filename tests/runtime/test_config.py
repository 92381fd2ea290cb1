from pathlib import Path

import pytest
from tests.runtime.packages import make_manifest

from pagedc.runtime.config import EngineOptions, measure_available_memory, resolve, usable_cores
from pagedc.runtime.errors import UsageError
from pagedc.runtime.manifest import KVCache, Memory

MANIFEST = make_manifest({})
FIXED = 272 + 64 * 64 + 1024 * (4 + 32)  # weights, activations of 64 tokens, 36 rows of logits
GIB = 1 << 30


def test_the_plan_of_the_package_is_the_default() -> None:
    config = resolve(MANIFEST, EngineOptions(), available_memory=GIB)
    assert (config.max_model_len, config.max_num_seqs, config.max_num_batched_tokens) == (128, 4, 64)
    assert config.num_blocks == 4 * 8  # no more than all sequences can fill
    assert config.num_threads == usable_cores() >= 1


def test_memory_is_for_everything_together() -> None:
    config = resolve(MANIFEST, EngineOptions(memory=FIXED + 10 * 1024 + 1023))
    assert config.num_blocks == 10


def test_without_memory_named_the_cache_takes_a_share() -> None:
    assert resolve(MANIFEST, EngineOptions(), available_memory=FIXED + 50 * 1024).num_blocks == 20


def test_too_little_memory_says_how_much_is_needed() -> None:
    needed = FIXED + 8 * 1024
    with pytest.raises(UsageError, match=f"memory is {needed - 1}, but .* give --memory at least {needed}"):
        resolve(MANIFEST, EngineOptions(memory=needed - 1))
    assert resolve(MANIFEST, EngineOptions(memory=needed)).num_blocks == 8
    with pytest.raises(UsageError, match="lower max_model_len"):
        resolve(MANIFEST, EngineOptions(), available_memory=0)


def test_state_is_planned_for_every_sequence_and_ends_the_prefix_cache() -> None:
    memory = Memory(
        weights_bytes=272, arena_bytes_per_token=64, logits_bytes_per_row=1024, state_bytes_per_seq=500
    )
    manifest = make_manifest({}, memory=memory)
    config = resolve(manifest, EngineOptions(memory=FIXED + 4 * 500 + 8 * 1024))
    assert (config.num_blocks, config.prefix_cache) == (8, False)
    with pytest.raises(UsageError, match=r"state of 4 sequences.* lower max_model_len or max_num_seqs"):
        resolve(manifest, EngineOptions(memory=FIXED + 4 * 500 + 8 * 1024 - 1))


def test_a_model_without_attention_has_blocks_that_cost_nothing() -> None:
    manifest = make_manifest({}, kv_cache=KVCache("float32", 16, 0))
    assert resolve(manifest, EngineOptions(memory=FIXED)).num_blocks == 4 * 8
    with pytest.raises(UsageError, match=f"give --memory at least {FIXED}"):
        resolve(manifest, EngineOptions(memory=FIXED - 1))


@pytest.mark.parametrize("name", ["max_model_len", "max_num_seqs", "max_num_batched_tokens"])
def test_limits_may_be_lowered_only(name: str) -> None:
    limit = getattr(MANIFEST.limits, name)
    assert getattr(resolve(MANIFEST, EngineOptions(**{name: limit - 1}), GIB), name) == limit - 1
    for value in (0, -1, limit + 1):
        with pytest.raises(UsageError, match=rf"{name} is {value}, not in \[1, {limit}\]"):
            resolve(MANIFEST, EngineOptions(**{name: value}), GIB)


def test_options_that_contradict_one_another() -> None:
    with pytest.raises(UsageError, match="max_num_batched_tokens is 3, below max_num_seqs, 4"):
        resolve(MANIFEST, EngineOptions(max_num_batched_tokens=3), GIB)
    with pytest.raises(UsageError, match="num_threads is 0"):
        resolve(MANIFEST, EngineOptions(num_threads=0), GIB)


def test_available_memory_is_measured() -> None:
    assert measure_available_memory() > 1 << 20


@pytest.mark.parametrize(
    ("folder", "limit", "usage", "stat"),
    [
        (".", "memory.max", "memory.current", "anon 500\nactive_file 300\ninactive_file 100"),
        (
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "active_file 3\ninactive_file 1\ntotal_active_file 300\ntotal_inactive_file 100",
        ),
    ],
)
def test_files_that_are_cached_take_no_memory_of_a_container(
    folder: str, limit: str, usage: str, stat: str, tmp_path: Path
) -> None:
    cgroup = tmp_path / folder
    cgroup.mkdir(exist_ok=True)
    (cgroup / limit).write_text("1000\n")
    (cgroup / usage).write_text("900\n")
    assert measure_available_memory(tmp_path) == 100
    (cgroup / "memory.stat").write_text(stat)
    assert measure_available_memory(tmp_path) == 500


def test_a_container_without_a_limit_has_all_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    assert measure_available_memory(tmp_path) > 1 << 20
