"""Sampling on the device against the reference, which sorts."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from tests.kernels.triton.device import DEVICE, tensor

from pagedc.kernels.reference.sampler import Sampling, log_probabilities, ranking, sample
from pagedc.kernels.triton.launch import config, run_all
from pagedc.kernels.triton.sampling import (
    TABLE_WORDS,
    SamplingSpec,
    launch_sampling,
    scratch_sizes,
)
from pagedc.runtime.batch import SAMPLING_DTYPE

VOCAB = 1003
TOP = 4
SPEC = SamplingSpec(vocab_size=VOCAB, max_logprobs=TOP)
CONFIG = config(4, 1, CHUNK=512)
Float32 = npt.NDArray[np.float32]
PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


@dataclass
class Outputs:
    token_ids: torch.Tensor
    logprobs: torch.Tensor
    top_ids: torch.Tensor
    top_logprobs: torch.Tensor


def run(
    logits: Float32,
    rows: list[Sampling],
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    forced: dict[int, int] | None = None,
    num_logprobs: int = -1,
    chosen_before: list[int] | None = None,  # by the step before: row r's stands in its history as -1 - r
) -> Outputs:
    table = np.zeros(len(rows), SAMPLING_DTYPE)
    assert table.itemsize == 4 * TABLE_WORDS
    history: list[int] = []
    bias: list[tuple[int, float]] = []
    for i, row in enumerate(rows):
        for name in ("temperature", "top_p", "min_p", "top_k", "seed", "counter", *PENALTIES):
            table[i][name] = getattr(row, name)
        table[i]["history_start"], table[i]["bias_start"] = len(history), len(bias)
        table[i]["prompt_end"] = len(history) + len(row.prompt)
        history += (*row.prompt, *row.completion)
        if chosen_before is not None:
            history[-1] = -1 - i
        bias += row.bias.items()
        table[i]["history_end"], table[i]["bias_end"] = len(history), len(bias)
        table[i]["mask_row"] = -1 if allowed is None else i
        table[i]["forced_token"] = (forced or {}).get(i, -1)
        table[i]["num_logprobs"] = num_logprobs
    words = np.zeros((len(rows), -(-VOCAB // 32)), np.uint32)
    if allowed is not None:
        packed = np.packbits(allowed, axis=1, bitorder="little")
        words.view(np.uint8)[:, : packed.shape[1]] = packed
    inputs = (
        tensor(table.view(np.int32).reshape(len(rows), TABLE_WORDS)),
        tensor(np.array([*history, 0], np.int32)),
        tensor(np.array([*(token for token, _ in bias), 0], np.int32)),
        tensor(np.array([*(value for _, value in bias), 0], np.float32)),
        tensor(words.view(np.int32)),
    )
    outputs = Outputs(
        token_ids=torch.full((len(rows),), -7, dtype=torch.int32, device=DEVICE),
        logprobs=torch.full((len(rows),), 7.0, device=DEVICE),
        top_ids=torch.full((len(rows), TOP), -7, dtype=torch.int32, device=DEVICE),
        top_logprobs=torch.full((len(rows), TOP), 7.0, device=DEVICE),
    )
    if chosen_before is not None:
        outputs.token_ids[:] = tensor(chosen_before, torch.int32)
    floats, ints = scratch_sizes(SPEC, CONFIG, len(rows))
    scratch = torch.full((floats,), float("nan"), device=DEVICE)
    counters = torch.zeros(ints, dtype=torch.int32, device=DEVICE)
    padded = torch.zeros(len(rows), VOCAB + 5, device=DEVICE)
    padded[:, :VOCAB] = tensor(logits)
    run_all(
        launch_sampling(SPEC, CONFIG, padded[:, :VOCAB], *inputs, scratch, counters, *vars(outputs).values())
    )
    assert (counters == 0).all()
    np.testing.assert_array_equal(padded[:, :VOCAB].cpu().numpy(), logits)
    return outputs


def random_logits(num_rows: int, seed: int) -> Float32:
    """Rows from nearly flat to very peaked; some values stand several times."""
    rng = np.random.default_rng(seed)
    spread = rng.choice([0.1, 1.0, 3.0, 10.0], (num_rows, 1))
    return np.round(rng.standard_normal((num_rows, VOCAB)) * spread, 2).astype(np.float32)


def test_chooses_as_the_reference() -> None:
    choices = itertools.product((0.2, 1.7), (0, 5, 900), (1.0, 0.95, 1e-6), (0.0, 0.05))
    rows = [
        Sampling(temperature=t, top_k=k, top_p=p, min_p=m, seed=2**63 + i, counter=i * 2**31)
        for i, (t, k, p, m) in enumerate(choices)
        if i % 3 == 0  # the interpreter takes its time
    ]
    rows += [Sampling(temperature=0.0), Sampling(temperature=1.0, min_p=1.0), Sampling(top_k=1, seed=3)]
    logits = random_logits(len(rows), seed=0)
    expected = [sample(x, row) for x, row in zip(logits, rows, strict=True)]
    np.testing.assert_array_equal(run(logits, rows).token_ids.cpu().numpy(), expected)


def test_of_equals_the_lowest_ids_are_kept() -> None:
    logits = np.zeros((2, VOCAB), np.float32)
    logits[:, ::2] = -0.0
    rows = [Sampling(top_k=k, top_p=p, seed=i) for i, (k, p) in enumerate([(3, 1.0), (300, 0.5)])]
    expected = [sample(x, row) for x, row in zip(logits, rows, strict=True)]
    np.testing.assert_array_equal(run(logits, rows).token_ids.cpu().numpy(), expected)


def test_bias_mask_and_penalties() -> None:
    rng = np.random.default_rng(1)
    rows = []
    for i in range(4):
        prompt, completion = (tuple(rng.integers(0, VOCAB, n).tolist()) for n in (30, 200))
        row = Sampling(
            temperature=0.0 if i % 2 else 1.0,
            repetition_penalty=1.3,
            presence_penalty=0.5,
            frequency_penalty=-0.25,
            prompt=prompt,
            completion=completion * 2,
            bias={int(token): 3.0 for token in rng.integers(0, VOCAB, 5)},
            seed=i,
        )
        rows.append(replace(row, repetition_penalty=1.0, prompt=()) if i % 4 > 1 else row)
    logits = random_logits(len(rows), seed=1)
    allowed = rng.random(logits.shape) < 0.3
    expected = [sample(x, row, mask) for x, row, mask in zip(logits, rows, allowed, strict=True)]
    np.testing.assert_array_equal(run(logits, rows, allowed=allowed).token_ids.cpu().numpy(), expected)
    newest = [row.completion[-1] for row in rows]
    found = run(logits, rows, allowed=allowed, chosen_before=newest).token_ids
    np.testing.assert_array_equal(found.cpu().numpy(), expected)


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = random_logits(3, seed=2)
    logits[1, ::3] = -np.inf
    rows = [Sampling(temperature=0.0, bias={7: 100.0})] * 3
    outputs = run(logits, rows, forced={2: 11}, num_logprobs=TOP - 1)
    np.testing.assert_array_equal(outputs.token_ids.cpu().numpy(), [7, 7, 11])
    for i, x in enumerate(logits):
        expected, order = log_probabilities(x), ranking(x)[: TOP - 1]
        chosen = int(outputs.token_ids[i])
        np.testing.assert_allclose(float(outputs.logprobs[i]), expected[chosen], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(outputs.top_ids[i].cpu().numpy(), [*order, -1])
        np.testing.assert_allclose(
            outputs.top_logprobs[i].cpu().numpy(), [*expected[order], -np.inf], rtol=1e-5, atol=1e-5
        )


def test_a_row_that_wants_no_logprobs_gets_none() -> None:
    outputs = run(random_logits(1, seed=3), [Sampling(temperature=0.0)])
    assert outputs.logprobs.tolist() == [0.0]
    assert outputs.top_ids.tolist() == [[-1] * TOP]


def test_where_nothing_is_finite_the_first_allowed_is_chosen() -> None:
    logits = np.full((1, VOCAB), -np.inf, np.float32)
    logits[0, 5] = np.nan
    allowed = np.zeros((1, VOCAB), np.bool_)
    allowed[0, [700, 900]] = True
    outputs = run(logits, [Sampling()], allowed=allowed)
    assert outputs.token_ids.tolist() == [700]


def test_the_same_token_alone_and_in_a_batch() -> None:
    rows = [Sampling(top_p=0.9, seed=i, counter=i) for i in range(2)]
    logits = random_logits(2, seed=4)
    together = run(logits, rows).token_ids
    assert [int(run(logits[i : i + 1], rows[i : i + 1]).token_ids) for i in range(2)] == together.tolist()
