// Biases of an attention's scores that a query gives to the distance to a key.
#pragma once

#include "common.h"
#include "vector_math.h"

namespace pagedc {

// What is added to q · k where the key is less than `extent` tokens away: Σ_r x[token][head][r] profiles[r][distance].
struct DistanceBias {
  const float* x = nullptr;         // [T][num_heads][rank], or null: no biases
  int64_t ldx = 0;                  // elements
  const float* profiles = nullptr;  // [rank][extent]
  int rank = 0, extent = 0;

  // To scores [begin, end) of a query; `last` is its own index among them.
  void add(float* scores, int token, int head, int begin, int end, int last) const {
    const float* const row = x + token * ldx + int64_t{head} * rank;
    const int first = last - extent + 1 > begin ? last - extent + 1 : begin;
    for (int r = 0; r < rank; ++r) {
      const float* const profile = profiles + int64_t{r} * extent;
      const float weight = row[r];
#pragma omp simd
      for (int i = first; i < end; ++i) scores[i] = math::mul_add(weight, profile[last - i], scores[i]);
    }
  }
};

}  // namespace pagedc
