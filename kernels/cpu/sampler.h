// Choose the next token of every row of logits.
//
// Log probabilities are of the raw logits. The choice is made after, in this order: logit bias, allowed_tokens,
// repetition, presence and frequency penalties; temperature 0 takes the largest (of equals the lowest id); else
// temperature, top-k, top-p, min-p, and a draw over the sum in order of ids. Tokens are ranked by logit, equals by id; each
// of the three keeps the first so many of that ranking: "everything down to one token", found without sorting.
#pragma once

#include "abi.h"
#include "random.h"
#include "row_scan.h"
#include "team.h"

namespace pagedc {

template <int VOCAB>
class Sampler {
 public:
  using Scan = RowScan<VOCAB>;
  using Scratch = typename Scan::Scratch;

  Sampler(const pagedc_batch& batch, Scratch& scratch) : batch_(batch), scan_(scratch), scratch_(scratch) {}

  void run(int row, const float* logits) {
    const pagedc_sampling& sampling = batch_.sampling[row];
    if (batch_.logits_out) {
      float* out = batch_.logits_out + int64_t{row} * VOCAB;
      if (out != logits) memcpy(out, logits, VOCAB * sizeof(float));
    }
    const float raw_maximum = scan_.block_maxima(logits);
    double log_sum = 0;
    if (sampling.num_logprobs >= 0) log_sum = ::log(scan_.template dense_weights<false>(logits, raw_maximum, 1.0f));
    top_logprobs(row, logits, raw_maximum, log_sum);
    int token = sampling.forced_token;
    if (token < 0) {
      const float* processed = process(sampling, logits);
      token = choose(sampling, processed, processed == logits ? raw_maximum : scan_.block_maxima(processed));
    }
    batch_.token_ids_out[row] = token;
    batch_.logprobs_out[row] = sampling.num_logprobs < 0 ? 0.0f : logprob(logits[token], raw_maximum, log_sum);
  }

 private:
  static float logprob(float logit, float maximum, double log_sum) {
    return static_cast<float>(static_cast<double>(logit) - maximum - log_sum);
  }

  void top_logprobs(int row, const float* logits, float maximum, double log_sum) {
    const int width = batch_.max_logprobs;
    int wanted = batch_.sampling[row].num_logprobs;
    wanted = wanted < width ? wanted : width;
    int count = 0;
    if (wanted > 0) {
      count = scan_.gather_top(logits, wanted);
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
    const bool has_history = s.history_start < s.history_end;
    if (s.bias_start == s.bias_end && s.mask_row < 0 && !(is_penalised && has_history)) return logits;
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
    if (s.temperature == 0 || maximum == INFINITY) return scan_.first_equal(logits, maximum);
    const float inverse = std::min(1.0f / s.temperature, 3e38f);  // not infinite: it is multiplied by 0
    const bool has_top_k = s.top_k > 0 && s.top_k < VOCAB;
    const double u = uniform(s.seed, s.counter);
    if (!has_top_k && s.top_p >= 1 && s.min_p <= 0)
      return draw_dense(u, scan_.template dense_weights<true>(logits, maximum, inverse));

    Candidate* candidates = scratch_.candidates;
    Candidate last = {-INFINITY, 0.0f, VOCAB};  // that may be chosen
    if (has_top_k) {
      int count = scan_.gather_top(logits, s.top_k);
      if (s.top_p < 1) {
        Scan::weigh(candidates, count, maximum, inverse);
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
    int count = scan_.gather(logits, last);
    Scan::weigh(candidates, count, maximum, inverse);
    if (s.min_p > 0)
      count = static_cast<int>(
          std::remove_if(candidates, candidates + count, [&](const Candidate& c) { return c.weight < s.min_p; }) -
          candidates);
    return draw(candidates, count, u);
  }

  // The last of the fewest candidates that rank first and have top_p of the whole weight.
  Candidate last_of_mass(const float* logits, float maximum, float inverse, float top_p) {
    constexpr int STEPS = 8;
    // The weights above a few bounds at a time tell where it lies; only what is between two of them is selected from.
    constexpr float COARSE[STEPS] = {-1, -2, -3, -4, -6, -8, -11, -15};
    const double target = top_p * scan_.template dense_weights<false>(logits, maximum, inverse);
    float low = -INFINITY, high = INFINITY;
    double above = 0;  // the weight from `high` up
    for (int round = 0; round < 2; ++round) {
      float bounds[STEPS];
      const float top = std::min(high, maximum), bottom = std::max(low, maximum - 40 / inverse);
      for (int i = 0; i < STEPS; ++i) {
        const float share = static_cast<float>(i + 1) / (STEPS + 1);
        bounds[i] = round == 0 ? maximum + COARSE[i] / inverse : top + (bottom - top) * share;
      }
      double masses[STEPS] = {};
      scan_.template weights_from<STEPS>(logits, maximum, inverse, bounds, masses);
      int i = 0;
      for (; i < STEPS && masses[i] < target; ++i) {
        high = bounds[i];
        above = masses[i];
      }
      if (i < STEPS) low = bounds[i];
    }
    int count = scan_.gather(logits, {low, 0.0f, VOCAB}, high);
    if (count == 0) return {low, 0.0f, VOCAB};  // the sums differ by a rounding
    Scan::weigh(scratch_.candidates, count, maximum, inverse);
    count = keep_mass(scratch_.candidates, count, target - above);
    return *std::max_element(scratch_.candidates, scratch_.candidates + count, ranks_before);
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
    for (; block < Scan::NUM_BLOCKS && sum + scratch_.sums[block] <= u * total; ++block) {
      sum += scratch_.sums[block];
      if (scratch_.sums[block] > 0) last_block = block;
    }
    if (block == Scan::NUM_BLOCKS) block = last_block;
    int last = 0;
    for (int id = block * Scan::BLOCK; id < block * Scan::BLOCK + Scan::block_size(block); ++id) {
      if (scratch_.weights[id] == 0) continue;
      last = id;
      sum += scratch_.weights[id];
      if (sum > u * total) break;
    }
    return last;
  }

  // Where every allowed logit is -inf or NaN.
  int first_allowed(const pagedc_sampling& s) const {
    for (int id = 0; s.mask_row >= 0 && id < VOCAB; ++id)
      if (batch_.allowed_tokens[s.mask_row * ceil_div(VOCAB, 32) + id / 32] >> (id % 32) & 1) return id;
    return 0;
  }

  const pagedc_batch& batch_;
  Scan scan_;
  Scratch& scratch_;
};

// Bytes of `scratch`, 64-byte aligned; its contents need not outlive the call.
template <int VOCAB>
size_t sample_scratch_bytes(int num_threads) {
  return num_threads * sizeof(typename Sampler<VOCAB>::Scratch);
}

// Fills token_ids_out, logprobs_out, top_ids_out, top_logprobs_out and, where wanted, logits_out of the batch's R rows.
// A row that wants no log probabilities gets 0; places of top_ids_out that a row did not want get -1.
// logits [R, VOCAB] with row stride ldl are left as they are. Every worker enters; no barrier at the end.
template <int VOCAB>
void sample(Worker& worker, const pagedc_batch& batch, const float* logits, int64_t ldl, void* scratch) {
  Sampler<VOCAB> sampler(batch, static_cast<typename Sampler<VOCAB>::Scratch*>(scratch)[worker.rank]);
  worker.parallel_for(batch.num_rows, 1,
                      [&](int64_t row, int64_t) { sampler.run(static_cast<int>(row), logits + row * ldl); });
}

}  // namespace pagedc
