import ctypes
import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from tests.kernels.abi import PagedcBatch, aligned_zeros, make_batch
from tests.kernels.harness import compile_harness, supported_marches

from pagedc.kernels.reference.sampler import (
    Sampling,
    log_probabilities,
    philox,
    ranking,
    sample,
    uniform,
)
from pagedc.runtime.batch import SAMPLING_DTYPE

VOCABS = (1000, 4099)  # neither a multiple of 64
MAX_LOGPROBS = 5
Float32 = npt.NDArray[np.float32]

SOURCE = """
#include "sampler.h"
using namespace pagedc;
extern "C" void philox_words(uint32_t* words, uint32_t key0, uint32_t key1) {
  Philox counter;
  memcpy(counter.words, words, 16);
  counter = philox(counter, key0, key1);
  memcpy(words, counter.words, 16);
}
template <int VOCAB>
void run(int threads, const pagedc_batch* batch, const float* logits, int64_t ldl, void* scratch) {
  Team team(threads);
  team.run([&](Worker& worker) { sample<VOCAB>(worker, *batch, logits, ldl, scratch); });
}
""" + "".join(
    f"""
extern "C" size_t scratch_{n}(int threads) {{ return sample_scratch_bytes<{n}>(threads); }}
extern "C" void sample_{n}(
    int threads, const pagedc_batch* batch, const float* logits, int64_t ldl, void* scratch) {{
  run<{n}>(threads, batch, logits, ldl, scratch);
}}
"""
    for n in VOCABS
)


class Results:
    def __init__(self, num_rows: int, vocab: int) -> None:
        self.token_ids = np.full(num_rows, -7, np.int32)
        self.logprobs = np.full(num_rows, np.nan, np.float32)
        self.top_ids = np.full((num_rows, MAX_LOGPROBS), -7, np.int32)
        self.top_logprobs = np.full((num_rows, MAX_LOGPROBS), np.nan, np.float32)
        self.logits = np.full((num_rows, vocab), np.nan, np.float32)


def run_sampler(
    march: str,
    logits: Float32,
    rows: list[Sampling],
    *,
    allowed: npt.NDArray[np.bool_] | None = None,  # [rows, vocab]
    forced: list[int] | None = None,
    num_logprobs: int = -1,
    num_threads: int = 1,
) -> Results:
    library = compile_harness(SOURCE, march)
    vocab = logits.shape[1]
    padded = np.zeros((len(rows), vocab + 3), np.float32)
    padded[:, :vocab] = logits
    before = padded.copy()
    sampling = np.zeros(len(rows), SAMPLING_DTYPE)
    history: list[int] = []
    bias_tokens: list[int] = []
    bias_values: list[float] = []
    for i, row in enumerate(rows):
        sampling[i]["history_start"], sampling[i]["bias_start"] = len(history), len(bias_tokens)
        history += row.prompt
        sampling[i]["prompt_end"] = len(history)
        history += row.completion
        bias_tokens += row.bias.keys()
        bias_values += row.bias.values()
        sampling[i]["history_end"], sampling[i]["bias_end"] = len(history), len(bias_tokens)
        for name in ("temperature", "top_p", "min_p", "top_k", "seed", "counter"):
            sampling[i][name] = getattr(row, name)
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            sampling[i][name] = getattr(row, name)
        sampling[i]["mask_row"] = -1 if allowed is None else i
        sampling[i]["forced_token"] = -1 if forced is None else forced[i]
        sampling[i]["num_logprobs"] = num_logprobs
    words = np.zeros((len(rows), -(-vocab // 32)), np.uint32)
    if allowed is not None:
        packed = np.packbits(allowed, axis=1, bitorder="little")
        words.view(np.uint8)[:, : packed.shape[1]] = packed
    arrays = {
        "sampling": sampling,
        "history_tokens": np.array(history, np.int32),
        "bias_tokens": np.array(bias_tokens, np.int32),
        "bias_values": np.array(bias_values, np.float32),
        "allowed_tokens": words,
    }
    results = Results(len(rows), vocab)
    batch = make_batch(
        num_rows=len(rows),
        max_logprobs=MAX_LOGPROBS,
        **arrays,
        **{f"{name}_out": getattr(results, name) for name in vars(results)},
    )
    size = getattr(library, f"scratch_{vocab}")
    size.restype = ctypes.c_size_t
    scratch = aligned_zeros(size(num_threads), fill=0x77)
    function = getattr(library, f"sample_{vocab}")
    pointer, int64 = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (ctypes.c_int, ctypes.POINTER(PagedcBatch), pointer, int64, pointer)
    function(num_threads, batch, padded.ctypes.data, vocab + 3, scratch.ctypes.data)
    np.testing.assert_array_equal(padded, before)
    np.testing.assert_array_equal(results.logits, logits)
    return results


def random_logits(num_rows: int, vocab: int, seed: int) -> Float32:
    """Rows from nearly flat to very peaked; some values stand several times."""
    rng = np.random.default_rng(seed)
    spread = rng.choice([0.1, 1.0, 3.0, 10.0], (num_rows, 1))
    return np.round(rng.standard_normal((num_rows, vocab)) * spread, 2).astype(np.float32)


@pytest.mark.parametrize("march", supported_marches())
@pytest.mark.parametrize("vocab", VOCABS)
def test_chooses_as_the_reference(march: str, vocab: int) -> None:
    choices = itertools.product((0.0, 0.2, 1.7), (0, 5, 900), (1.0, 0.95, 1e-6), (0.0, 0.05, 1.0))
    rows = [
        Sampling(temperature=t, top_k=k, top_p=p, min_p=m, seed=2**63 + i, counter=i * 2**31)
        for i, (t, k, p, m) in enumerate(choices)
    ]
    logits = random_logits(len(rows), vocab, seed=vocab)
    expected = [sample(x, row) for x, row in zip(logits, rows, strict=True)]
    np.testing.assert_array_equal(run_sampler(march, logits, rows).token_ids, expected)


@pytest.mark.parametrize("march", supported_marches())
def test_bias_mask_and_penalties(march: str) -> None:
    vocab = VOCABS[0]
    rng = np.random.default_rng(1)
    rows = []
    for i in range(60):
        prompt, completion = (tuple(rng.integers(0, vocab, n).tolist()) for n in (300, 200))
        rows.append(
            Sampling(
                temperature=float(i % 2),
                top_p=0.99,
                repetition_penalty=float(rng.choice([1.0, 1.3])),
                presence_penalty=float(rng.choice([0.0, 1.5])),
                frequency_penalty=float(rng.choice([0.0, -0.7])),
                prompt=prompt,
                completion=completion + completion[:50],
                bias={int(t): float(rng.integers(-100, 100)) / 8 for t in rng.integers(0, vocab, i % 9)},
                counter=i,
            )
        )
    logits = random_logits(len(rows), vocab, seed=2)
    allowed = rng.random((len(rows), vocab)) < 0.1
    for mask in (None, allowed):
        expected = [
            sample(x, row, None if mask is None else mask[i])
            for i, (x, row) in enumerate(zip(logits, rows, strict=True))
        ]
        results = run_sampler(march, logits, rows, allowed=mask)
        np.testing.assert_array_equal(results.token_ids, expected)


@pytest.mark.parametrize("march", supported_marches())
def test_log_probabilities_are_of_the_raw_logits(march: str) -> None:
    vocab = VOCABS[1]
    logits = random_logits(4, vocab, seed=3)
    rows = [Sampling(temperature=0.0, bias={7: 100.0})] * 4
    for num_logprobs, forced in ((0, None), (3, None), (5, [5, 4098, 0, 17])):
        results = run_sampler(march, logits, rows, forced=forced, num_logprobs=num_logprobs)
        np.testing.assert_array_equal(results.token_ids, forced or [7] * 4)
        for i, row in enumerate(logits):
            expected = log_probabilities(row)
            top = ranking(row)[:num_logprobs]
            assert results.logprobs[i] == pytest.approx(expected[results.token_ids[i]], abs=2e-6)
            np.testing.assert_array_equal(results.top_ids[i, :num_logprobs], top)
            np.testing.assert_allclose(results.top_logprobs[i, :num_logprobs], expected[top], atol=2e-6)
            assert (results.top_ids[i, num_logprobs:] == -1).all()
            assert (results.top_logprobs[i, num_logprobs:] == -np.inf).all()


def test_a_row_does_not_depend_on_its_neighbours_or_the_threads() -> None:
    rows = [Sampling(temperature=0.9, top_p=0.9, top_k=i % 3 * 40, seed=i) for i in range(12)]
    logits = random_logits(12, VOCABS[0], seed=4)
    together = run_sampler("native", logits, rows, num_logprobs=5, num_threads=3)
    for i, row in enumerate(rows):
        alone = run_sampler("native", logits[i : i + 1], [row], num_logprobs=5)
        assert alone.token_ids[0] == together.token_ids[i]
        np.testing.assert_array_equal(alone.top_logprobs[0], together.top_logprobs[i])


def test_draws_follow_the_distribution() -> None:
    num_draws = 6_000
    logits = np.full((1, VOCABS[0]), -np.inf, np.float32)
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    ids = [3, 64, 500, 999]
    logits[0, ids] = np.log(probabilities)
    for base in (Sampling(), Sampling(top_k=900), Sampling(top_p=0.999)):
        rows = [replace(base, seed=7, counter=i) for i in range(num_draws)]
        tokens = run_sampler("native", np.repeat(logits, num_draws, axis=0), rows).token_ids
        share = np.array([(tokens == i).mean() for i in ids])
        assert np.abs(share - probabilities).max() < 0.03
        assert share.sum() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_degenerate_logits_give_an_allowed_token(temperature: float) -> None:
    vocab = VOCABS[0]
    allowed = np.zeros((1, vocab), np.bool_)
    allowed[0, [300, 301]] = True
    rows = [Sampling(temperature=temperature, top_p=0.5)]
    for value in (-np.inf, np.nan):
        logits = np.full((1, vocab), value, np.float32)
        assert run_sampler("native", logits, rows, allowed=allowed).token_ids[0] == 300
        assert run_sampler("native", logits, rows).token_ids[0] == 0
    logits = np.zeros((1, vocab), np.float32)
    logits[0, 70] = np.inf
    assert run_sampler("native", logits, rows).token_ids[0] == 70
    logits[0, 70] = np.nan
    assert run_sampler("native", logits, rows, allowed=allowed).token_ids[0] in (300, 301)


PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (*PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_philox_gives_the_published_words(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert philox(counter, key) == expected
    words = (ctypes.c_uint32 * 4)(*counter)
    compile_harness(SOURCE, "native").philox_words(words, ctypes.c_uint32(key[0]), ctypes.c_uint32(key[1]))
    assert tuple(words) == expected
    assert 0 <= uniform(key[0], counter[0]) < 1
