// Choose the next token of every row of logits.
//
// Log probabilities are of the raw logits. The choice is made after, in this order: logit bias, allowed_tokens, repetition,
// presence and frequency penalties; temperature 0 takes the largest (of equals the lowest id); else temperature, top-k, top-p,
// min-p, and a draw over the sum in order of ids. Tokens are ranked by logit, equals by id; each of the three keeps the first
// so many of that ranking, so what is left is always "everything down to one token", found without sorting.
#pragma once

#include <algorithm>

#include "abi.h"
#include "random.h"
#include "softmax.h"
#include "team.h"

namespace pagedc {

struct Candidate {
  float logit;
  float weight;  // e^((logit - maximum) / temperature)
  int32_t id;
};

PAGEDC_INLINE bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Reorders so that the first n returned are the fewest that rank first and weigh `target` together; expected time O(count).
inline int keep_mass(Candidate* candidates, int count, double target) {
  int begin = 0, end = count;  // those before begin are kept, those from end on are not
  double kept = 0;
  while (end - begin > 16) {
    Candidate pivots[3] = {candidates[begin], candidates[begin + (end - begin) / 2], candidates[end - 1]};
    std::sort(pivots, pivots + 3, ranks_before);
    const Candidate pivot = pivots[1];
    const Candidate* split = std::partition(candidates + begin, candidates + end,
                                            [&](const Candidate& c) { return !ranks_before(pivot, c); });
    const int middle = static_cast<int>(split - candidates);
    double mass = 0;
    for (int i = begin; i < middle; ++i) mass += candidates[i].weight;
    if (kept + mass >= target) {
      end = middle;
    } else {
      kept += mass;
      begin = middle;
    }
  }
  std::sort(candidates + begin, candidates + end, ranks_before);
  while (begin < end && kept < target) kept += candidates[begin++].weight;
  return begin;
}

template <int VOCAB>
class Sampler {
 public:
  static constexpr int BLOCK = 64;  // logits that share an entry of maxima
  static constexpr int NUM_BLOCKS = static_cast<int>(ceil_div(VOCAB, BLOCK));

  struct alignas(64) Scratch {
    float logits[VOCAB];  // after bias, mask and penalties
    float maxima[NUM_BLOCKS], sorted_maxima[NUM_BLOCKS];
    double sums[NUM_BLOCKS];
    union {
      Candidate candidates[VOCAB];
      float weights[VOCAB];
      int32_t counts[VOCAB];
    };
  };

  Sampler(const pagedc_batch& batch, Scratch& scratch) : batch_(batch), scratch_(scratch) {}

  void run(int row, const float* logits) {
    const pagedc_sampling& sampling = batch_.sampling[row];
    if (batch_.logits_out) {
      float* out = batch_.logits_out + int64_t{row} * VOCAB;
      if (out != logits) memcpy(out, logits, VOCAB * sizeof(float));
    }
    const float raw_maximum = block_maxima(logits);
    double log_sum = 0;
    if (sampling.num_logprobs >= 0) log_sum = ::log(dense_weights<false>(logits, raw_maximum, 1.0f));
    top_logprobs(row, logits, raw_maximum, log_sum);
    int token = sampling.forced_token;
    if (token < 0) {
      const float* processed = process(sampling, logits);
      token = choose(sampling, processed, processed == logits ? raw_maximum : block_maxima(processed));
    }
    batch_.token_ids_out[row] = token;
    batch_.logprobs_out[row] = sampling.num_logprobs < 0 ? 0.0f : logprob(logits[token], raw_maximum, log_sum);
  }

 private:
  static constexpr int block_size(int block) { return VOCAB - block * BLOCK < BLOCK ? VOCAB - block * BLOCK : BLOCK; }

  // The lanes from `count` on are -inf.
  static PAGEDC_INLINE Vec16 load_logits(const float* x, int count) {
    if (count >= 16) return load(x);
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = i < count ? x[i] : -INFINITY;
    return load(lanes);
  }

  static float logprob(float logit, float maximum, double log_sum) {
    return static_cast<float>(static_cast<double>(logit) - maximum - log_sum);
  }

  // scratch.maxima; returns the largest. A NaN counts as less than everything.
  float block_maxima(const float* logits) {
    float result = -INFINITY;
    for (int block = 0; block < NUM_BLOCKS; ++block) {
      const float* x = logits + block * BLOCK;
      float maximum = -INFINITY;
      if (block_size(block) == BLOCK) {
        const Vec16 lanes = max(max(load(x), max(load(x + 16), broadcast(-INFINITY))),
                                max(load(x + 32), max(load(x + 48), broadcast(-INFINITY))));
        maximum = reduce_max(lanes);
      } else {
        for (int i = 0; i < block_size(block); ++i) maximum = x[i] > maximum ? x[i] : maximum;
      }
      scratch_.maxima[block] = maximum;
      result = maximum > result ? maximum : result;
    }
    return result;
  }

  // Σ e^((logit - maximum) * inverse_temperature), in an order of its own: lanes of a block, then blocks.
  template <bool KEEP>
  double dense_weights(const float* logits, float maximum, float inverse_temperature) {
    const Vec16 maxima = broadcast(maximum), scale = broadcast(inverse_temperature);
    double total = 0;
    for (int block = 0; block < NUM_BLOCKS; ++block) {
      const float* x = logits + block * BLOCK;
      Vec16 sum = zero_vec16();
      for (int i = 0; i < block_size(block); i += 16) {
        const int count = block_size(block) - i;
        const Vec16 weight = exp_of_negative((load_logits(x + i, count) - maxima) * scale);
        sum = sum + weight;
        if constexpr (KEEP) store_first(scratch_.weights + block * BLOCK + i, weight, count < 16 ? count : 16);
      }
      const float block_sum = reduce_add(sum);
      if constexpr (KEEP) scratch_.sums[block] = block_sum;
      total += block_sum;
    }
    return total;
  }

  // The candidates below `end` that do not rank after `last`, in order of ids.
  int gather(const float* logits, Candidate last, float end = INFINITY) {
    Candidate* out = scratch_.candidates;
    int count = 0;
    for (int block = 0; block < NUM_BLOCKS; ++block) {
      if (scratch_.maxima[block] < last.logit) continue;
      for (int i = 0; i < block_size(block); i += 16) {
        const int first = block * BLOCK + i;
        uint32_t mask = mask_at_least(load_logits(logits + first, block_size(block) - i), broadcast(last.logit));
        for (; mask; mask &= mask - 1) {
          const int32_t id = first + __builtin_ctz(mask);
          if (id >= VOCAB) break;  // a lane past the end, -inf, where the bound is -inf too
          const float logit = logits[id];
          if (logit >= end || logit == -INFINITY || (logit == last.logit && id > last.id)) continue;
          out[count++] = {logit, 0.0f, id};
        }
      }
    }
    return count;
  }

  // scratch.candidates holds the k that rank first; returns k, or how many there are.
  int gather_top(const float* logits, int k) {
    float bound = -INFINITY;  // the k-th largest maximum of a block: k logits at least are as large
    if (k <= NUM_BLOCKS) {
      float* sorted = scratch_.sorted_maxima;
      memcpy(sorted, scratch_.maxima, sizeof scratch_.maxima);
      std::nth_element(sorted, sorted + (k - 1), sorted + NUM_BLOCKS, [](float a, float b) { return a > b; });
      bound = sorted[k - 1];
    }
    const int count = gather(logits, {bound, 0.0f, VOCAB});
    if (count <= k) return count;
    std::nth_element(scratch_.candidates, scratch_.candidates + (k - 1), scratch_.candidates + count, ranks_before);
    return k;
  }

  void top_logprobs(int row, const float* logits, float maximum, double log_sum) {
    const int width = batch_.max_logprobs;
    int wanted = batch_.sampling[row].num_logprobs;
    wanted = wanted < width ? wanted : width;
    int count = 0;
    if (wanted > 0) {
      count = gather_top(logits, wanted);
      std::sort(scratch_.candidates, scratch_.candidates + count, ranks_before);
    }
    for (int i = 0; i < width; ++i) {
      batch_.top_ids_out[int64_t{row} * width + i] = i < count ? scratch_.candidates[i].id : -1;
      batch_.top_logprobs_out[int64_t{row} * width + i] =
          i < count ? logprob(scratch_.candidates[i].logit, maximum, log_sum) : -INFINITY;
    }
  }

  // Logits after bias, mask and penalties: a copy in scratch, or `logits` itself where there is nothing to do.
  const float* process(const pagedc_sampling& s, const float* logits) {
    const bool is_penalised = s.repetition_penalty != 1 || s.presence_penalty != 0 || s.frequency_penalty != 0;
    if (s.bias_start == s.bias_end && s.mask_row < 0 && (!is_penalised || s.history_start == s.history_end)) return logits;
    float* out = scratch_.logits;
    memcpy(out, logits, VOCAB * sizeof(float));
    for (int i = s.bias_start; i < s.bias_end; ++i)
      if (is_token(batch_.bias_tokens[i])) out[batch_.bias_tokens[i]] += batch_.bias_values[i];
    if (s.mask_row >= 0) {
      const uint32_t* allowed = batch_.allowed_tokens + int64_t{s.mask_row} * ceil_div(VOCAB, 32);
      for (int id = 0; id < VOCAB; ++id) out[id] = allowed[id / 32] >> (id % 32) & 1 ? out[id] : -INFINITY;
    }
    if (is_penalised) penalise(s, out);
    return out;
  }

  void penalise(const pagedc_sampling& s, float* logits) {
    constexpr int32_t DONE = -1;
    const int32_t* history = batch_.history_tokens;
    int32_t* counts = scratch_.counts;
    for (int i = s.history_start; i < s.history_end; ++i)
      if (is_token(history[i])) counts[history[i]] = 0;
    for (int i = s.prompt_end; i < s.history_end; ++i)
      if (is_token(history[i])) ++counts[history[i]];
    for (int i = s.history_start; i < s.history_end; ++i) {
      const int32_t id = history[i];
      if (!is_token(id) || counts[id] == DONE) continue;
      float logit = logits[id];
      logit = logit > 0 ? logit / s.repetition_penalty : logit * s.repetition_penalty;
      logit -= s.frequency_penalty * static_cast<float>(counts[id]);
      logit -= counts[id] > 0 ? s.presence_penalty : 0.0f;
      logits[id] = logit;
      counts[id] = DONE;
    }
  }

  static bool is_token(int32_t id) { return static_cast<uint32_t>(id) < static_cast<uint32_t>(VOCAB); }

  int choose(const pagedc_sampling& s, const float* logits, float maximum) {
    if (maximum == -INFINITY) return first_allowed(s);
    if (s.temperature == 0 || maximum == INFINITY) return first_equal(logits, maximum);
    const float inverse = std::min(1.0f / s.temperature, 3e38f);  // not infinite: it is multiplied by 0
    const bool has_top_k = s.top_k > 0 && s.top_k < VOCAB;
    const double u = uniform(s.seed, s.counter);
    if (!has_top_k && s.top_p >= 1 && s.min_p <= 0) return draw_dense(u, dense_weights<true>(logits, maximum, inverse));

    Candidate* candidates = scratch_.candidates;
    Candidate last = {-INFINITY, 0.0f, VOCAB};  // that may be chosen
    if (has_top_k) {
      int count = gather_top(logits, s.top_k);
      if (s.top_p < 1) {
        weigh(candidates, count, maximum, inverse);
        double total = 0;
        for (int i = 0; i < count; ++i) total += candidates[i].weight;
        count = keep_mass(candidates, count, s.top_p * total);
      }
      last = *std::max_element(candidates, candidates + count, ranks_before);
    } else if (s.top_p < 1) {
      last = last_of_mass(logits, maximum, inverse, s.top_p);
    }
    if (s.min_p > 0) {  // a bound that errs to the low side, then the weights themselves
      const float bound = static_cast<float>(maximum + (::log(s.min_p) - 1e-2) / inverse - 1e-6 * std::fabs(maximum));
      if (bound > last.logit) last = {bound, 0.0f, VOCAB};
    }
    int count = gather(logits, last);
    weigh(candidates, count, maximum, inverse);
    if (s.min_p > 0)
      count = static_cast<int>(
          std::remove_if(candidates, candidates + count, [&](const Candidate& c) { return c.weight < s.min_p; }) -
          candidates);
    return draw(candidates, count, u);
  }

  // The last of the fewest candidates that rank first and have top_p of the whole weight.
  Candidate last_of_mass(const float* logits, float maximum, float inverse, float top_p) {
    constexpr int STEPS = 8;
    // The weight above a few bounds at a time narrows down where it lies; only what is between two bounds is selected from.
    constexpr float COARSE[STEPS] = {-1, -2, -3, -4, -6, -8, -11, -15};
    const double target = top_p * dense_weights<false>(logits, maximum, inverse);
    float low = -INFINITY, high = INFINITY;
    double above = 0;  // the weight from `high` up
    for (int round = 0; round < 2; ++round) {
      float bounds[STEPS];
      const float top = std::min(high, maximum), bottom = std::max(low, maximum - 40 / inverse);
      for (int i = 0; i < STEPS; ++i)
        bounds[i] = round == 0 ? maximum + COARSE[i] / inverse : top + (bottom - top) * (static_cast<float>(i + 1) / (STEPS + 1));
      double masses[STEPS] = {};
      weights_from<STEPS>(logits, maximum, inverse, bounds, masses);
      int i = 0;
      for (; i < STEPS && masses[i] < target; ++i) {
        high = bounds[i];
        above = masses[i];
      }
      if (i < STEPS) low = bounds[i];
    }
    int count = gather(logits, {low, 0.0f, VOCAB}, high);
    if (count == 0) return {low, 0.0f, VOCAB};  // the sums differ by a rounding
    weigh(scratch_.candidates, count, maximum, inverse);
    count = keep_mass(scratch_.candidates, count, target - above);
    return *std::max_element(scratch_.candidates, scratch_.candidates + count, ranks_before);
  }

  // masses[i] = the weight of the logits >= bounds[i], which fall.
  template <int STEPS>
  void weights_from(const float* logits, float maximum, float inverse, const float* bounds, double* masses) const {
    constexpr int BLOCKS_PER_SUM = 16;  // more would cost float32 digits
    const Vec16 maxima = broadcast(maximum), scale = broadcast(inverse);
    for (int first = 0; first < NUM_BLOCKS; first += BLOCKS_PER_SUM) {
      Vec16 sums[STEPS];
      for (int j = 0; j < STEPS; ++j) sums[j] = zero_vec16();
      for (int block = first; block < std::min(first + BLOCKS_PER_SUM, NUM_BLOCKS); ++block) {
        if (scratch_.maxima[block] < bounds[STEPS - 1]) continue;
        for (int i = 0; i < block_size(block); i += 16) {
          const Vec16 x = load_logits(logits + block * BLOCK + i, block_size(block) - i);
          const Vec16 weight = exp_of_negative((x - maxima) * scale);
          for (int j = 0; j < STEPS; ++j) sums[j] = sums[j] + where_at_least(x, broadcast(bounds[j]), weight);
        }
      }
      for (int j = 0; j < STEPS; ++j) masses[j] += reduce_add(sums[j]);
    }
  }

  static void weigh(Candidate* candidates, int count, float maximum, float inverse_temperature) {
#pragma omp simd
    for (int i = 0; i < count; ++i)
      candidates[i].weight = math::exp((candidates[i].logit - maximum) * inverse_temperature);
  }

  // The first in order of ids where the running sum passes u * total.
  static int draw(const Candidate* candidates, int count, double u) {
    double total = 0, sum = 0;
    for (int i = 0; i < count; ++i) total += candidates[i].weight;
    int last = candidates[0].id;
    for (int i = 0; i < count; ++i) {
      if (candidates[i].weight == 0) continue;
      last = candidates[i].id;
      sum += candidates[i].weight;
      if (sum > u * total) break;
    }
    return last;
  }

  int draw_dense(double u, double total) const {
    double sum = 0;
    int block = 0, last_block = 0;  // the last that has weight
    for (; block < NUM_BLOCKS && sum + scratch_.sums[block] <= u * total; ++block) {
      sum += scratch_.sums[block];
      if (scratch_.sums[block] > 0) last_block = block;
    }
    if (block == NUM_BLOCKS) block = last_block;
    int last = 0;
    for (int id = block * BLOCK; id < block * BLOCK + block_size(block); ++id) {
      if (scratch_.weights[id] == 0) continue;
      last = id;
      sum += scratch_.weights[id];
      if (sum > u * total) break;
    }
    return last;
  }

  int first_equal(const float* logits, float maximum) const {
    int block = 0;
    while (scratch_.maxima[block] != maximum) ++block;
    int id = block * BLOCK;
    while (logits[id] != maximum) ++id;
    return id;
  }

  // Where every allowed logit is -inf or NaN.
  int first_allowed(const pagedc_sampling& s) const {
    for (int id = 0; s.mask_row >= 0 && id < VOCAB; ++id)
      if (batch_.allowed_tokens[s.mask_row * ceil_div(VOCAB, 32) + id / 32] >> (id % 32) & 1) return id;
    return 0;
  }

  const pagedc_batch& batch_;
  Scratch& scratch_;
};

// Bytes of `scratch`, 64-byte aligned; its contents need not outlive the call.
template <int VOCAB>
size_t sample_scratch_bytes(int num_threads) {
  return num_threads * sizeof(typename Sampler<VOCAB>::Scratch);
}

// Fills token_ids_out, logprobs_out, top_ids_out, top_logprobs_out and, where wanted, logits_out of the batch's R rows. A row
// that wants no log probabilities gets 0; places of top_ids_out that a row did not want get -1.
// logits [R, VOCAB] with row stride ldl are left as they are. Every worker enters; no barrier at the end.
template <int VOCAB>
void sample(Worker& worker, const pagedc_batch& batch, const float* logits, int64_t ldl, void* scratch) {
  Sampler<VOCAB> sampler(batch, static_cast<typename Sampler<VOCAB>::Scratch*>(scratch)[worker.rank]);
  worker.parallel_for(batch.num_rows, 1, [&](int64_t row, int64_t) { sampler.run(static_cast<int>(row), logits + row * ldl); });
}

}  // namespace pagedc
