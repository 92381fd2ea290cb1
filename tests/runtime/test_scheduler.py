from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.test_block_manager import make_sequence

from pagedc.runtime.block_manager import BlockManager
from pagedc.runtime.scheduler import Schedule, Scheduler
from pagedc.runtime.sequence import Sequence, Status


def make_scheduler(
    *, num_blocks: int = 64, max_num_seqs: int = 4, max_num_batched_tokens: int = 16, max_num_rows: int = 8
) -> Scheduler:
    return Scheduler(BlockManager(num_blocks, 4), max_num_seqs, max_num_batched_tokens, max_num_rows)


def prompt(length: int, seq_id: int, priority: int = 0) -> Sequence:
    sequence = make_sequence([100 * seq_id + i for i in range(length)], seq_id=seq_id)
    sequence.priority = priority
    return sequence


def run(scheduler: Scheduler) -> Schedule:
    """One step as the engine does it: compute what was scheduled, sample a token where a prompt is
    complete.
    """
    schedule = scheduler.schedule()
    assert len(schedule.sequences) <= scheduler.max_num_seqs
    assert sum(schedule.num_new_tokens) <= scheduler.max_num_batched_tokens
    assert len(set(schedule.sequences)) == len(schedule.sequences)
    for sequence, num_tokens in zip(*schedule, strict=True):
        assert 0 < num_tokens <= sequence.num_uncomputed_tokens
        sequence.num_computed_tokens += num_tokens
        scheduler.block_manager.commit(sequence, sequence.num_computed_tokens)
        if sequence.num_uncomputed_tokens == 0:
            sequence.token_ids.append(7)
    scheduler.block_manager.check_integrity(scheduler.running)
    assert all(not sequence.block_table for sequence in scheduler.waiting)
    slots = [sequence.state_slot for sequence in scheduler.running]
    assert len(set(slots)) == len(slots)
    assert set(slots) <= set(range(scheduler.max_num_seqs))
    return schedule


def test_prefill_is_cut_into_chunks_and_decodes_go_first() -> None:
    scheduler = make_scheduler()
    first, second = prompt(5, 0), prompt(30, 1)
    scheduler.add(first)
    scheduler.add(second)
    assert run(scheduler) == ([first, second], [5, 11])
    assert run(scheduler) == ([first, second], [1, 15])
    assert run(scheduler) == ([first, second], [1, 4])
    assert run(scheduler) == ([first, second], [1, 1])


def test_at_most_max_num_seqs_run() -> None:
    scheduler = make_scheduler(max_num_seqs=2)
    sequences = [prompt(2, i) for i in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    assert run(scheduler).sequences == sequences[:2]
    scheduler.finish(sequences[0])
    assert run(scheduler).sequences == [sequences[1], sequences[2]]


def test_priority_goes_before_arrival() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    late, urgent = prompt(2, 0, priority=5), prompt(2, 1, priority=-1)
    scheduler.add(late)
    scheduler.add(urgent)
    assert run(scheduler).sequences == [urgent]


def test_the_newest_of_the_lowest_priority_is_preempted_and_comes_back() -> None:
    scheduler = make_scheduler(num_blocks=7)
    low, first, second = prompt(6, 0, priority=1), prompt(6, 1), prompt(6, 2)
    for sequence in (low, first, second):
        scheduler.add(sequence)
    run(scheduler)  # two blocks each for `first` and `second`, and none to spare for `low`
    assert scheduler.running == [first, second]
    for _ in range(7):
        run(scheduler)
    assert scheduler.num_preemptions == 1
    assert scheduler.running == [first]
    assert scheduler.waiting == [second, low]
    assert second.num_preemptions == 1
    assert len(second.token_ids) > second.num_prompt_tokens, "what was generated is kept"
    scheduler.finish(first)
    assert run(scheduler).sequences[0] is second


def test_a_long_prompt_at_the_head_is_not_passed_over() -> None:
    scheduler = make_scheduler(num_blocks=8)
    running, long, short = prompt(8, 0), prompt(28, 1), prompt(1, 2)
    scheduler.add(running)
    run(scheduler)
    scheduler.add(long)
    scheduler.add(short)
    assert run(scheduler).sequences == [running]
    scheduler.finish(running)
    assert run(scheduler).sequences == [long]


def test_prefix_cache_hits_are_counted_once() -> None:
    scheduler = make_scheduler()
    first = prompt(9, 0)
    scheduler.add(first)
    run(scheduler)
    second = make_sequence(list(first.token_ids[:9]), seq_id=1)
    scheduler.add(second)
    assert run(scheduler) == ([first, second], [1, 1])
    assert second.num_cached_tokens == 8
    assert (scheduler.prefix_cache_hits, scheduler.prefix_cache_queries) == (8, 18)


def test_rows_bound_the_chunks_of_prompts_that_are_scored() -> None:
    scheduler = make_scheduler(max_num_rows=8)
    first, second = prompt(3, 0), prompt(30, 1)
    second.wants_prompt_logprobs = True
    scheduler.add(first)
    scheduler.add(second)
    assert run(scheduler) == ([first, second], [3, 7])


def test_a_sequence_can_be_finished_in_any_state() -> None:
    scheduler = make_scheduler(max_num_seqs=2, num_blocks=16)
    decoding, prefilling, waiting = prompt(2, 0), prompt(40, 1), prompt(2, 2)
    for sequence in (decoding, prefilling, waiting):
        scheduler.add(sequence)
    run(scheduler)
    for sequence in (waiting, prefilling, decoding):
        scheduler.finish(sequence)
        assert sequence.status is Status.FINISHED
        scheduler.block_manager.check_integrity(scheduler.running)
    scheduler.finish(decoding)
    assert scheduler.schedule().sequences == []
    assert scheduler.block_manager.num_free_blocks == 16


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_workloads_finish_and_keep_the_books(data: st.DataObject) -> None:
    num_blocks = data.draw(st.integers(8, 24))
    scheduler = make_scheduler(num_blocks=num_blocks, max_num_batched_tokens=data.draw(st.integers(4, 40)))
    max_len = num_blocks * 4
    alive: dict[int, tuple[Sequence, int]] = {}
    for seq_id in range(data.draw(st.integers(1, 12))):
        length = data.draw(st.integers(1, max_len - 1))
        total = data.draw(st.integers(length + 1, max_len))
        sequence = make_sequence([i % 3 for i in range(length)], seq_id=seq_id)  # many share prefixes
        sequence.priority = data.draw(st.integers(0, 2))
        sequence.wants_prompt_logprobs = data.draw(st.booleans())
        scheduler.add(sequence)
        alive[seq_id] = (sequence, total)
    num_steps = 0
    while alive:
        num_steps += 1
        assert num_steps < 5000, "starved"
        schedule = run(scheduler)
        assert schedule.sequences, "work is left but nothing is scheduled"
        assert scheduler.running[0] in schedule.sequences, "the oldest proceeds"
        for seq_id, (sequence, total) in list(alive.items()):
            if len(sequence.token_ids) >= total or data.draw(st.integers(0, 300)) == 0:
                scheduler.finish(sequence)
                del alive[seq_id]
    scheduler.block_manager.check_integrity([])
    assert scheduler.block_manager.num_free_blocks == num_blocks
