"""Logits after bias, mask and penalties, and what of them a choice needs to know, chunk by chunk."""

import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs

WORDS = tl.constexpr(20)  # of a row of the sampling table
TEMPERATURE, TOP_P, MIN_P = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
REPETITION, PRESENCE, FREQUENCY = tl.constexpr(3), tl.constexpr(4), tl.constexpr(5)
TOP_K, NUM_LOGPROBS, FORCED_TOKEN, MASK_ROW = (
    tl.constexpr(6),
    tl.constexpr(7),
    tl.constexpr(8),
    tl.constexpr(9),
)
SEED, COUNTER = tl.constexpr(10), tl.constexpr(12)  # two words each, the lower first
HISTORY_START, HISTORY_END, PROMPT_END = tl.constexpr(14), tl.constexpr(15), tl.constexpr(16)
BIAS_START, BIAS_END = tl.constexpr(17), tl.constexpr(18)


@triton.jit
def number(table, row, FIELD: tl.constexpr):
    """An int32 field of a row of the sampling table."""
    return tl.load(table + row * WORDS + FIELD)


@triton.jit
def real(table, row, FIELD: tl.constexpr):
    """A float32 field of a row of the sampling table."""
    return number(table, row, FIELD).to(tl.float32, bitcast=True)


@triton.jit
def inverse_temperature(temperature):
    """Not infinite: it is multiplied by 0. Of 0, which is not asked for, 1."""
    return tl.minimum(tl.div_rn(1.0, tl.where(temperature == 0, 1.0, temperature)), 3e38)


@triton.jit
def is_penalised(table, row):
    """Whether the row has penalties and tokens that they are for."""
    changes = (real(table, row, REPETITION) != 1) | (real(table, row, PRESENCE) != 0)
    changes = changes | (real(table, row, FREQUENCY) != 0)
    return changes & (number(table, row, HISTORY_START) < number(table, row, HISTORY_END))


@triton.jit
def load_history(history_tokens, chosen, i, end, VOCAB: tl.constexpr):
    """Token ids; VOCAB from `end` on."""
    ids = tl.load(history_tokens + i, mask=i < end, other=VOCAB)
    return tl.load(chosen - 1 - ids, mask=ids < 0, other=0) + tl.maximum(ids, 0)


@triton.jit
def count_history_kernel(
    table, history_tokens, chosen, counts,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (R). counts[r, id] = 1 + occurrences in the completion, for the history of a penalised row."""
    row = tl.program_id(0).to(tl.int64)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if is_penalised(table, row):
        end = number(table, row, HISTORY_END)
        for first in tl.range(number(table, row, HISTORY_START), end, BLOCK):
            i = first + tl.arange(0, BLOCK)
            ids = load_history(history_tokens, chosen, i, end, VOCAB)
            tl.store(counts + row * VOCAB + ids, 1, mask=(ids >= 0) & (ids < VOCAB))
        tl.debug_barrier()
        for first in tl.range(number(table, row, PROMPT_END), end, BLOCK):
            i = first + tl.arange(0, BLOCK)
            ids = load_history(history_tokens, chosen, i, end, VOCAB)
            tl.atomic_add(counts + row * VOCAB + ids, 1, mask=(ids >= 0) & (ids < VOCAB), sem="relaxed")


@triton.jit
def penalise(x, counted, table, row):
    """x after the penalties, where counted > 0 = 1 + occurrences in the completion."""
    repetition = real(table, row, REPETITION)
    occurrences = (counted - 1).to(tl.float32)
    y = tl.where(x > 0, tl.div_rn(x, repetition), x * repetition)
    y -= real(table, row, FREQUENCY) * occurrences
    y -= tl.where(occurrences > 0, real(table, row, PRESENCE), 0.0)
    return tl.where(counted > 0, y, x)


@triton.jit
def finite_or_zero(maximum):
    """A number to subtract from logits of this maximum."""
    return tl.where((maximum == float("-inf")) | (maximum == float("inf")), 0.0, maximum)


@triton.jit
def load_logits(pointers, mask):
    """-inf outside and for NaN; one zero."""
    x = tl.load(pointers, mask=mask, other=float("-inf"))
    return tl.where(x == x, tl.where(x == 0, 0.0, x), float("-inf"))


@triton.jit
def process_kernel(
    logits, table, bias_tokens, bias_values, allowed_tokens, counts, processed, measures, places,
    VOCAB: tl.constexpr, LOGITS_STRIDE: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (NUM_CHUNKS, R)."""
    chunk = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    mask = ids < VOCAB
    wait_for_inputs(PDL)
    let_next_start(PDL)
    x = load_logits(logits + row * LOGITS_STRIDE + ids, mask)
    measure = measures + (row * NUM_CHUNKS + chunk) * 4
    raw_maximum = tl.max(x, 0)
    tl.store(measure, raw_maximum)
    tl.store(measure + 1, tl.sum(tl.exp(x - finite_or_zero(raw_maximum)), 0))

    for i in tl.range(number(table, row, BIAS_START), number(table, row, BIAS_END)):
        x = tl.where(ids == tl.load(bias_tokens + i), x + tl.load(bias_values + i), x)
    mask_row = number(table, row, MASK_ROW)
    if mask_row >= 0:
        words = allowed_tokens + mask_row.to(tl.int64) * ((VOCAB + 31) // 32)
        allowed = (tl.load(words + ids // 32, mask=mask, other=0) >> (ids % 32)) & 1
        x = tl.where(allowed == 1, x, float("-inf"))
    if is_penalised(table, row):
        counted = tl.load(counts + row * VOCAB + ids, mask=mask, other=0)
        x = penalise(x, counted, table, row)
        tl.store(counts + row * VOCAB + ids, 0, mask=counted > 0)

    temperature = real(table, row, TEMPERATURE)
    maximum = tl.max(x, 0)
    tl.store(places + row * NUM_CHUNKS + chunk, tl.min(tl.where(x == maximum, ids, VOCAB), 0))
    tl.store(measure + 2, maximum)
    if temperature != 0:
        weights = tl.exp((x - finite_or_zero(maximum)) * inverse_temperature(temperature))
        tl.store(measure + 3, tl.sum(weights, 0))
        tl.store(processed + row * VOCAB + ids, x, mask=mask)
