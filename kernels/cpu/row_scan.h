// One row of logits, scanned: its maxima, sums of weights, and the tokens above a bound. Blocks of 64 logits whose
// maximum is below the bound are not looked at again.
#pragma once

#include "candidates.h"
#include "softmax.h"

namespace pagedc {

template <int VOCAB>
class RowScan {
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

  explicit RowScan(Scratch& scratch) : scratch_(scratch) {}

  static constexpr int block_size(int block) { return VOCAB - block * BLOCK < BLOCK ? VOCAB - block * BLOCK : BLOCK; }

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

  int first_equal(const float* logits, float maximum) const {
    int block = 0;
    while (scratch_.maxima[block] != maximum) ++block;
    int id = block * BLOCK;
    while (logits[id] != maximum) ++id;
    return id;
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

  static void weigh(Candidate* candidates, int count, float maximum, float inverse_temperature) {
#pragma omp simd
    for (int i = 0; i < count; ++i)
      candidates[i].weight = math::exp((candidates[i].logit - maximum) * inverse_temperature);
  }

 private:
  // The lanes from `count` on are -inf.
  static PAGEDC_INLINE Vec16 load_logits(const float* x, int count) {
    if (count >= 16) return load(x);
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = i < count ? x[i] : -INFINITY;
    return load(lanes);
  }

  Scratch& scratch_;
};

}  // namespace pagedc
