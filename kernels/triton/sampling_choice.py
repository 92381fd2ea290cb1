"""The choice of a row's token from its processed logits, by a program a row.

Tokens are ranked by logit, equals by id; each of top-k and top-p keeps the first so many of that ranking. The
last that is kept is found without sorting: a logit's bits, seen as an integer that grows with it, are
determined two at a time by counting (top-k) or weighing (top-p) what is above. A chunk whose maximum is below
is not read.
"""

import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.sampling_logits import (
    COUNTER,
    FORCED_TOKEN,
    MASK_ROW,
    MIN_P,
    NUM_LOGPROBS,
    SEED,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    finite_or_zero,
    inverse_temperature,
    load_logits,
    number,
    real,
)

LOWEST = tl.constexpr(0x007FFFFF)  # rank of -inf
SIGN = tl.constexpr(0x80000000)


@triton.jit
def rank_of(x):
    """An int64 in [0, 2^32) that grows with the float32."""
    bits = x.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.where(bits >= 0, bits + SIGN, -bits - 1)


@triton.jit
def logit_of(rank):
    """The float32 of a rank."""
    bits = tl.where(rank >= SIGN, rank - SIGN, -rank - 1)
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def uniform(table, row):
    """Uniform in [0, 1), 53 bits: Philox4x32-10 of counter (counter, 0, 0) under the seed."""
    low = number(table, row, SEED).to(tl.uint32, bitcast=True)
    high = number(table, row, SEED + 1).to(tl.uint32, bitcast=True)
    c0 = number(table, row, COUNTER).to(tl.uint32, bitcast=True)
    c1 = number(table, row, COUNTER + 1).to(tl.uint32, bitcast=True)
    zero = tl.full((), 0, tl.uint32)
    w0, w1, _, _ = tl.philox_impl(c0, c1, zero, zero, low, high)
    word = ((w1.to(tl.uint64) << 32) | w0.to(tl.uint64)) >> 11
    return word.to(tl.int64).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit
def weigh(x, maximum, inverse):
    """e^((x − maximum) / temperature)."""
    return tl.exp((x - maximum) * inverse)


@triton.jit
def weight_above(
    x_row, maxima, rank, maximum, inverse,
    VOCAB: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The weight of the tokens that rank higher."""
    sums = tl.zeros((CHUNK,), tl.float64)
    for chunk in tl.range(NUM_CHUNKS):
        if rank_of(tl.load(maxima + chunk * 4)) > rank:
            ids = chunk * CHUNK + tl.arange(0, CHUNK)
            x = load_logits(x_row + ids, ids < VOCAB)
            sums += tl.where(rank_of(x) > rank, weigh(x, maximum, inverse), 0.0).to(tl.float64)
    return tl.sum(sums, 0)


@triton.jit
def last_of(
    x_row, maxima, target, maximum, inverse, by_weight,
    VOCAB: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """(highest rank such that it and those above weigh, or count, `target`; the weight of those above)."""
    rank = tl.full((), 0, tl.int64)
    above = tl.full((), 0.0, tl.float64)
    for i in tl.range(16):
        step = tl.full((), 1, tl.int64) << (30 - 2 * i)
        one = tl.zeros((CHUNK,), tl.float64)
        two = tl.zeros((CHUNK,), tl.float64)
        three = tl.zeros((CHUNK,), tl.float64)
        for chunk in tl.range(NUM_CHUNKS):
            if rank_of(tl.load(maxima + chunk * 4)) >= rank + step:
                ids = chunk * CHUNK + tl.arange(0, CHUNK)
                x = load_logits(x_row + ids, ids < VOCAB)
                weights = tl.where(by_weight, weigh(x, maximum, inverse), 1.0)
                weights = tl.where(ids < VOCAB, weights, 0.0).to(tl.float64)
                ranks = rank_of(x)
                one += tl.where(ranks >= rank + step, weights, 0.0)
                two += tl.where(ranks >= rank + 2 * step, weights, 0.0)
                three += tl.where(ranks >= rank + 3 * step, weights, 0.0)
        first, second, third = tl.sum(one, 0), tl.sum(two, 0), tl.sum(three, 0)
        steps = tl.where(first >= target, 1, 0)
        steps = tl.where(second >= target, 2, steps)
        steps = tl.where(third >= target, 3, steps)
        above = tl.where(steps == 2, third, tl.where(steps == 1, second, tl.where(steps == 0, first, above)))
        rank += steps * step
    return rank, above


@triton.jit
def id_of_equal(
    x_row, maxima, rank, wanted,
    VOCAB: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The id of the `wanted`-th token of this rank, or the last."""
    result = tl.full((), 0, tl.int32)
    seen = tl.full((), 0, tl.int32)
    for chunk in tl.range(NUM_CHUNKS):
        if (seen < wanted) & (rank_of(tl.load(maxima + chunk * 4)) >= rank):
            ids = chunk * CHUNK + tl.arange(0, CHUNK)
            is_equal = (rank_of(load_logits(x_row + ids, ids < VOCAB)) == rank) & (ids < VOCAB)
            position = seen + tl.cumsum(is_equal.to(tl.int32), 0)
            result = tl.maximum(result, tl.max(tl.where(is_equal & (position <= wanted), ids, 0), 0))
            seen += tl.sum(is_equal.to(tl.int32), 0)
    return result


@triton.jit
def load_kept(x_row, chunk, rank, last_id, min_p, maximum, inverse, VOCAB: tl.constexpr, CHUNK: tl.constexpr):
    """(ids, weights) of a chunk: 0 for what is not kept."""
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    x = load_logits(x_row + ids, ids < VOCAB)
    weights = weigh(x, maximum, inverse)
    ranks = rank_of(x)
    is_kept = (ranks > rank) | ((ranks == rank) & (ids <= last_id))
    return ids, tl.where(is_kept & (weights >= min_p), weights, 0.0).to(tl.float64)


@triton.jit
def draw(
    x_row, maxima, u, rank, last_id, min_p, maximum, inverse,
    VOCAB: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The first id where the running weight of the kept tokens passes u times the whole."""
    sums = tl.zeros((CHUNK,), tl.float64)
    for chunk in tl.range(NUM_CHUNKS):
        if rank_of(tl.load(maxima + chunk * 4)) >= rank:
            _, weights = load_kept(x_row, chunk, rank, last_id, min_p, maximum, inverse, VOCAB, CHUNK)
            sums += weights
    target = u * tl.sum(sums, 0)
    token = tl.full((), 0, tl.int32)
    running = tl.full((), 0.0, tl.float64)
    for chunk in tl.range(NUM_CHUNKS):
        if (running <= target) & (rank_of(tl.load(maxima + chunk * 4)) >= rank):
            ids, weights = load_kept(x_row, chunk, rank, last_id, min_p, maximum, inverse, VOCAB, CHUNK)
            passed = running + tl.cumsum(weights, 0)
            first = tl.min(tl.where((passed > target) & (weights > 0), ids, VOCAB), 0)
            last = tl.max(tl.where(weights > 0, ids, -1), 0)  # where the sums differ by a rounding
            token = tl.where(first < VOCAB, first, tl.where(last >= 0, last, token))
            running = tl.where(first < VOCAB, float("inf"), tl.max(passed, 0))
    return token


@triton.jit
def draw_from_all(
    x_row, measures, u, maximum, inverse,
    VOCAB: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """As `draw` with every token kept: the chunk by its measures, then the token in it."""
    chunks = tl.arange(0, BLOCK_CHUNKS)
    maxima = tl.load(measures + chunks * 4 + 2, mask=chunks < NUM_CHUNKS, other=float("-inf"))
    sums = tl.load(measures + chunks * 4 + 3, mask=chunks < NUM_CHUNKS, other=0.0)
    sums = tl.where(maxima > float("-inf"), sums * weigh(maxima, maximum, inverse), 0.0).to(tl.float64)
    passed = tl.cumsum(sums, 0)
    target = u * tl.sum(sums, 0)
    chunk = tl.min(tl.where((passed > target) & (sums > 0), chunks, BLOCK_CHUNKS), 0)
    chunk = tl.where(chunk < BLOCK_CHUNKS, chunk, tl.max(tl.where(sums > 0, chunks, 0), 0))
    before = tl.sum(tl.where(chunks < chunk, sums, 0.0), 0)
    ids, weights = load_kept(x_row, chunk, LOWEST, VOCAB, 0.0, maximum, inverse, VOCAB, CHUNK)
    passed = before + tl.cumsum(weights, 0)
    first = tl.min(tl.where((passed > target) & (weights > 0), ids, VOCAB), 0)
    return tl.where(first < VOCAB, first, tl.max(tl.where(weights > 0, ids, 0), 0))


@triton.jit
def sample_row(
    x_row, measures, table, row, maximum,
    VOCAB: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Temperature, top-k, top-p, min-p and a draw."""
    inverse = inverse_temperature(real(table, row, TEMPERATURE))
    u = uniform(table, row)
    top_k = number(table, row, TOP_K)
    top_p = real(table, row, TOP_P)
    min_p = real(table, row, MIN_P)
    has_top_k = (top_k > 0) & (top_k < VOCAB)
    maxima = measures + 2
    token = tl.full((), 0, tl.int32)
    if has_top_k | (top_p < 1) | (min_p > 0):
        rank = tl.full((), 0, tl.int64) + LOWEST
        wanted = tl.full((), 0x7FFFFFFF, tl.int32)  # of the tokens of the last rank
        for turn in tl.range(2):  # top-k counts, top-p weighs what is left
            by_weight = turn == 1
            if (by_weight & (top_p < 1)) | ((turn == 0) & has_top_k):
                target = top_k.to(tl.float64)
                if by_weight:
                    weight = weight_above(x_row, maxima, rank, maximum, inverse, VOCAB, NUM_CHUNKS, CHUNK)
                    weight += wanted.to(tl.float64) * weigh(logit_of(rank), maximum, inverse).to(tl.float64)
                    target = tl.maximum(top_p.to(tl.float64) * weight, 1e-300)
                rank, above = last_of(
                    x_row, maxima, target, maximum, inverse, by_weight, VOCAB, NUM_CHUNKS, CHUNK
                )
                of_rank = tl.where(by_weight, weigh(logit_of(rank), maximum, inverse), 1.0).to(tl.float64)
                wanted = tl.maximum(tl.ceil((target - above) / of_rank), 1.0).to(tl.int32)
        last_id = id_of_equal(x_row, maxima, rank, wanted, VOCAB, NUM_CHUNKS, CHUNK)
        token = draw(
            x_row, maxima, u, rank, last_id, min_p, maximum, inverse, VOCAB, NUM_CHUNKS, CHUNK
        )  # fmt: skip
    else:
        token = draw_from_all(
            x_row, measures, u, maximum, inverse, VOCAB, NUM_CHUNKS, CHUNK, BLOCK_CHUNKS
        )  # fmt: skip
    return token


@triton.jit
def first_allowed(table, row, allowed_tokens, VOCAB: tl.constexpr, BLOCK_WORDS: tl.constexpr):
    """The lowest id that is allowed: what is chosen where no logit is finite."""
    WORDS_OF_MASK: tl.constexpr = (VOCAB + 31) // 32
    result = tl.full((), 0, tl.int32)
    mask_row = number(table, row, MASK_ROW)
    if mask_row >= 0:
        best = tl.full((), VOCAB, tl.int32)
        for first in tl.range(0, VOCAB, BLOCK_WORDS):
            ids = first + tl.arange(0, BLOCK_WORDS)
            words = allowed_tokens + mask_row.to(tl.int64) * WORDS_OF_MASK + ids // 32
            bits = (tl.load(words, mask=ids < VOCAB, other=0) >> (ids % 32)) & 1
            best = tl.minimum(best, tl.min(tl.where((bits == 1) & (ids < VOCAB), ids, VOCAB), 0))
        result = tl.where(best < VOCAB, best, 0)
    return result


@triton.jit
def store_top(
    x_row, chunk_maxima, wanted, shift, log_sum, top_ids, top_logprobs,
    VOCAB: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MAX_LOGPROBS: tl.constexpr,
):  # fmt: skip
    """The most likely tokens of a row, one after the other: each is the first of a chunk's maximum."""
    chunks = tl.arange(0, BLOCK_CHUNKS)
    last_x = tl.full((), float("inf"), tl.float32)
    last_id = tl.full((), -1, tl.int32)
    for i in tl.range(MAX_LOGPROBS):
        best = tl.max(chunk_maxima, 0)
        token = tl.full((), -1, tl.int32)
        logprob = tl.full((), float("-inf"), tl.float32)
        if (i < wanted) & (best > float("-inf")):
            chunk = tl.min(tl.where(chunk_maxima == best, chunks, BLOCK_CHUNKS), 0)
            ids = chunk * CHUNK + tl.arange(0, CHUNK)
            x = load_logits(x_row + ids, ids < VOCAB)
            is_left = (x < last_x) | ((x == last_x) & (ids > last_id))
            token = tl.min(tl.where(is_left & (x == best), ids, VOCAB), 0)
            rest = tl.where(is_left & (ids != token), x, float("-inf"))
            chunk_maxima = tl.where(chunks == chunk, tl.max(rest, 0), chunk_maxima)
            logprob = (best.to(tl.float64) - shift.to(tl.float64) - log_sum).to(tl.float32)
            last_x = best
            last_id = token
        tl.store(top_ids + i, token)
        tl.store(top_logprobs + i, logprob)


@triton.jit
def choose_kernel(
    logits, table, allowed_tokens, processed, measures, places, token_ids, logprobs, top_ids, top_logprobs,
    VOCAB: tl.constexpr, LOGITS_STRIDE: tl.constexpr, NUM_CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
    MAX_LOGPROBS: tl.constexpr, BLOCK_CHUNKS: tl.constexpr, BLOCK_WORDS: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (R)."""
    row = tl.program_id(0).to(tl.int64)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    measures += row * (NUM_CHUNKS * 4)
    chunks = tl.arange(0, BLOCK_CHUNKS)
    is_chunk = chunks < NUM_CHUNKS
    maxima = tl.load(measures + chunks * 4 + 2, mask=is_chunk, other=float("-inf"))
    maximum = tl.max(maxima, 0)
    token = number(table, row, FORCED_TOKEN)
    if token < 0:
        if maximum == float("-inf"):
            token = first_allowed(table, row, allowed_tokens, VOCAB, BLOCK_WORDS)
        elif (real(table, row, TEMPERATURE) == 0) | (maximum == float("inf")):
            firsts = tl.load(places + row * NUM_CHUNKS + chunks, mask=is_chunk, other=VOCAB)
            token = tl.min(tl.where(maxima == maximum, firsts, VOCAB), 0)
        else:
            token = sample_row(
                processed + row * VOCAB, measures, table, row, maximum,
                VOCAB, NUM_CHUNKS, CHUNK, BLOCK_CHUNKS,
            )  # fmt: skip
    tl.store(token_ids + row, token)

    wanted = number(table, row, NUM_LOGPROBS)
    logprob = tl.full((), 0.0, tl.float32)
    x_row = logits + row * LOGITS_STRIDE
    raw_maxima = tl.load(measures + chunks * 4, mask=is_chunk, other=float("-inf"))
    shift = finite_or_zero(tl.max(raw_maxima, 0))
    raw_sums = tl.load(measures + chunks * 4 + 1, mask=is_chunk, other=0.0)
    raw_sums = tl.where(raw_maxima > float("-inf"), raw_sums * tl.exp(raw_maxima - shift), 0.0)
    raw_sum = tl.sum(raw_sums.to(tl.float64), 0)
    log_sum = tl.log(tl.where(raw_sum > 0, raw_sum, 1.0))
    if wanted >= 0:
        logprob = (tl.load(x_row + token).to(tl.float64) - shift.to(tl.float64) - log_sum).to(tl.float32)
    tl.store(logprobs + row, logprob)
    if MAX_LOGPROBS > 0:
        store_top(
            x_row, raw_maxima, wanted, shift, log_sum,
            top_ids + row * MAX_LOGPROBS, top_logprobs + row * MAX_LOGPROBS,
            VOCAB, NUM_CHUNKS, CHUNK, BLOCK_CHUNKS, MAX_LOGPROBS,
        )  # fmt: skip
