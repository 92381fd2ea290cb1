import random

import pytest

from pagedc.runtime.block_manager import BlockManager
from pagedc.runtime.row_template import make_row_template
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.sequence import Sequence, int32_array

BLOCK_SIZE = 4


def make_sequence(token_ids: list[int], *, seq_id: int = 0, cache_salt: str = "") -> Sequence:
    params = SamplingParams()
    return Sequence(
        seq_id=seq_id,
        request_id=str(seq_id),
        index=0,
        token_ids=int32_array(token_ids),
        num_prompt_tokens=len(token_ids),
        params=params,
        row_template=make_row_template(params, 0, frozenset()),
        max_tokens=100,
        cache_salt=cache_salt,
    )


def compute(manager: BlockManager, sequence: Sequence) -> None:
    sequence.num_computed_tokens = len(sequence.token_ids)
    manager.commit(sequence, sequence.num_computed_tokens)


def cached_tokens(manager: BlockManager, token_ids: list[int], cache_salt: str = "") -> int:
    sequence = make_sequence(token_ids, cache_salt=cache_salt)
    assert manager.can_allocate(sequence)
    num_cached = manager.allocate(sequence)
    manager.check_integrity([sequence])
    manager.free(sequence)
    return num_cached


def manager_that_computed(token_ids: list[int], num_blocks: int = 8, cache_salt: str = "") -> BlockManager:
    manager = BlockManager(num_blocks, BLOCK_SIZE)
    sequence = make_sequence(token_ids, cache_salt=cache_salt)
    manager.allocate(sequence)
    compute(manager, sequence)
    manager.free(sequence)
    return manager


def test_a_computed_prefix_is_found_again_in_full_blocks() -> None:
    manager = manager_that_computed([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert cached_tokens(manager, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == 8
    assert cached_tokens(manager, [1, 2, 3, 4, 5, 6, 0, 0, 9]) == 4
    assert cached_tokens(manager, [0, 2, 3, 4, 5, 6, 7, 8, 9]) == 0


def test_the_last_token_is_always_left_to_compute() -> None:
    manager = manager_that_computed([1, 2, 3, 4, 5, 6, 7, 8])
    assert cached_tokens(manager, [1, 2, 3, 4, 5, 6, 7, 8]) == 4


def test_the_same_block_behind_another_prefix_is_another_block() -> None:
    manager = manager_that_computed([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert cached_tokens(manager, [5, 6, 7, 8, 9]) == 0


def test_a_salt_has_a_cache_of_its_own() -> None:
    manager = manager_that_computed([1, 2, 3, 4, 5], cache_salt="a")
    assert cached_tokens(manager, [1, 2, 3, 4, 5], cache_salt="a") == 4
    assert cached_tokens(manager, [1, 2, 3, 4, 5], cache_salt="b") == 0
    assert cached_tokens(manager, [1, 2, 3, 4, 5]) == 0


def test_nothing_is_found_before_it_is_computed() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    first, second = make_sequence([1, 2, 3, 4, 5]), make_sequence([1, 2, 3, 4, 5], seq_id=1)
    manager.allocate(first)
    assert manager.allocate(second) == 0
    compute(manager, first)
    compute(manager, second)  # the same content twice: only one of the blocks is known
    manager.check_integrity([first, second])
    manager.free(first)
    manager.free(second)
    manager.check_integrity([])
    assert cached_tokens(manager, [1, 2, 3, 4, 5]) == 4


def test_blocks_in_use_are_shared() -> None:
    manager = BlockManager(4, BLOCK_SIZE)
    first, second = (
        make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 9]),
        make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 0], seq_id=1),
    )
    manager.allocate(first)
    compute(manager, first)
    assert manager.can_allocate(second)  # one free block is enough
    assert manager.allocate(second) == 8
    assert first.block_table[:2] == second.block_table[:2]
    manager.check_integrity([first, second])
    manager.free(first)
    manager.check_integrity([second])


def test_eviction_takes_the_least_recently_used_and_the_end_of_a_prefix_first() -> None:
    manager = manager_that_computed(
        [1, 2, 3, 4, 5, 6, 7, 8, 9], num_blocks=4
    )  # 2 blocks with content, 2 without
    other = make_sequence([11, 12, 13, 14, 15, 16, 17, 18, 19])  # takes 3
    manager.allocate(other)
    manager.free(other)
    manager.check_integrity([])
    assert cached_tokens(manager, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == 4


def test_can_allocate_counts_cached_blocks_that_are_free() -> None:
    manager = manager_that_computed([1, 2, 3, 4, 5, 6, 7, 8], num_blocks=2)
    assert manager.can_allocate(make_sequence([1, 2, 3, 4, 5]))
    assert not manager.can_allocate(make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert not manager.can_allocate(make_sequence([1, 2, 3, 4, 5]), reserve=1)


def test_without_the_prefix_cache_nothing_is_found() -> None:
    manager = BlockManager(8, BLOCK_SIZE, prefix_cache=False)
    sequence = make_sequence([1, 2, 3, 4, 5])
    manager.allocate(sequence)
    compute(manager, sequence)
    manager.free(sequence)
    assert cached_tokens(manager, [1, 2, 3, 4, 5]) == 0


def test_integrity_check_notices_a_leak() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    sequence = make_sequence([1, 2, 3])
    manager.allocate(sequence)
    with pytest.raises(AssertionError, match="reference counts"):
        manager.check_integrity([])


def test_random_use_keeps_the_books_consistent() -> None:
    rng = random.Random(0)
    manager = BlockManager(24, BLOCK_SIZE)
    alive: list[Sequence] = []
    for step in range(1500):
        choice = rng.random()
        if choice < 0.4:
            sequence = make_sequence([rng.randrange(2) for _ in range(rng.randrange(1, 30))], seq_id=step)
            if manager.can_allocate(sequence):
                manager.allocate(sequence)
                alive.append(sequence)
        elif alive and choice < 0.8:
            sequence = rng.choice(alive)
            compute(manager, sequence)
            sequence.token_ids.append(rng.randrange(2))
            if manager.can_append(sequence):
                manager.append(sequence)
            else:
                manager.free(sequence)
                alive.remove(sequence)
        elif alive:
            sequence = alive.pop(rng.randrange(len(alive)))
            manager.free(sequence)
        manager.check_integrity(alive)
