// What emitted row kernels call: small functions on numbers, selection, and the loop over tokens.
#pragma once

#include "abi.h"
#include "common.h"
#include "team.h"
#include "vector_math.h"

namespace pagedc {

PAGEDC_INLINE float maximum(float a, float b) { return a > b ? a : b; }
PAGEDC_INLINE float minimum(float a, float b) { return a < b ? a : b; }
PAGEDC_INLINE int32_t maximum(int32_t a, int32_t b) { return a > b ? a : b; }
PAGEDC_INLINE int32_t minimum(int32_t a, int32_t b) { return a < b ? a : b; }

// Rounding towards minus infinity, as torch's integer division and remainder do.
PAGEDC_INLINE int32_t floor_divide(int32_t a, int32_t b) { return a / b - ((a % b != 0) & ((a < 0) != (b < 0))); }
PAGEDC_INLINE int32_t modulo(int32_t a, int32_t b) { return a - floor_divide(a, b) * b; }
PAGEDC_INLINE float modulo(float a, float b) { return a - floorf(a / b) * b; }

// Indexes of the K largest of N values, largest first, the lower index first among equals.
template <int N, int K>
inline void topk_index(const float* values, int32_t* index) {
  int taken = 0;
  for (int i = 0; i < N; ++i) {
    if (taken == K && !(values[i] > values[index[K - 1]])) continue;
    int at = taken < K ? taken++ : K - 1;
    for (; at > 0 && values[i] > values[index[at - 1]]; --at) index[at] = index[at - 1];
    index[at] = i;
  }
}

// f(t) for every token, each thread a run of them.
template <class F>
PAGEDC_INLINE void for_tokens(const Worker& worker, int64_t T, const F& f) {
  const int64_t end = T * (worker.rank + 1) / worker.size;
  for (int64_t t = T * worker.rank / worker.size; t < end; ++t) f(t);
}

// out[r] = x[rows[r]], `width` values each.
template <class V>
PAGEDC_INLINE void select_rows(const Worker& worker, const pagedc_batch& batch, const V* x, int64_t width, V* out) {
  for_tokens(worker, batch.num_rows, [&](int64_t r) {
    memcpy(out + r * width, x + batch.logits_rows[r] * width, width * sizeof(V));
  });
}

// out[r] = x[r] as floats, for each of the step's rows; x's rows are `stride` values apart.
template <class V>
PAGEDC_INLINE void widen_rows(const Worker& worker, const pagedc_batch& batch, const V* x, int64_t stride, int64_t width,
                              float* out) {
  for_tokens(worker, batch.num_rows, [&](int64_t r) {
    for (int64_t i = 0; i < width; ++i) out[r * width + i] = to_float(x[r * stride + i]);
  });
}

// A linear's epilogue that stores rows of LD floats.
template <int64_t LD>
struct StoreRows {
  float* out;
  PAGEDC_INLINE void operator()(int64_t t, int n, const float* acc, int count) const {
    float* row = out + t * LD + n;
    if (count == 16)
      for (int i = 0; i < 16; ++i) row[i] = acc[i];
    else
      for (int i = 0; i < count; ++i) row[i] = acc[i];
  }
};

}  // namespace pagedc
