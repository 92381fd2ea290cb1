// The scores of one query against one split, turned into weights.
#pragma once

#include "simd.h"
#include "vector_math.h"

namespace pagedc {

// e^x of lanes that are at most about 0, as scores minus their maximum are; exactly 0 for -inf.
PAGEDC_INLINE Vec16 exp_of_negative(Vec16 x) {
#if defined(PAGEDC_AVX512)
  x = max(broadcast(-105.0f), x);  // a NaN, the second operand, stays
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x.v, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), x.v);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.00139508315f), r, _mm512_set1_ps(0.00836908817f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0416662022f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.166665167f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
  return {_mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1.0f)), n)};
#else
  float lanes[16];
  store(lanes, x);
#pragma omp simd
  for (int i = 0; i < 16; ++i) lanes[i] = math::exp(lanes[i]);
  return load(lanes);
#endif
}

// What one query knows of some of its keys: out = Σ e^(score - maximum) v, sum = Σ e^(score - maximum).
struct SoftmaxState {
  float maximum;  // -INFINITY where no key was seen
  float sum;
};

// scores[0 : count] (a multiple of 16) become weights, as Weight from their start on; the sum is that of the weights as they
// were rounded. Only [begin, end) are keys that the query may see: the others
// become 0. `slope` is that of ALiBi for the distance to `last`, the query's own index among the scores.
template <class Config, class Weight>
inline SoftmaxState softmax_split(float* scores, int count, int begin, int end, float slope, int last) {
  static_assert(Config::scale > 0, "the maximum is taken before scaling");
  constexpr bool HAS_SOFTCAP = Config::softcap != 0;
  Weight* weights = reinterpret_cast<Weight*>(scores);  // no wider: a weight never overwrites a score still to be read
  if (begin >= end) {
    for (int i = 0; i < count; i += 16) store(weights + i, zero_vec16());
    return {-INFINITY, 0.0f};
  }
  const bool transformed = HAS_SOFTCAP || slope != 0;
  if (transformed) {
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      float s = scores[i] * Config::scale;
      if constexpr (HAS_SOFTCAP) s = Config::softcap * math::tanh(s * (1.0f / (HAS_SOFTCAP ? Config::softcap : 1.0f)));
      scores[i] = math::mul_add(slope, static_cast<float>(i - last), s);
    }
  }
  for (int i = 0; i < begin; ++i) scores[i] = -INFINITY;
  for (int i = end; i < count; ++i) scores[i] = -INFINITY;

  Vec16 maxima = broadcast(-INFINITY);
  for (int i = 0; i < count; i += 16) maxima = max(maxima, load(scores + i));
  const float scale = transformed ? 1.0f : Config::scale;
  const float maximum = reduce_max(maxima) * scale;
  const Vec16 negated = broadcast(maximum == -INFINITY ? 0.0f : -maximum), scales = broadcast(scale);
  Vec16 sums = zero_vec16();
  for (int i = 0; i < count; i += 16) {
    store(weights + i, exp_of_negative(fma(load(scores + i), scales, negated)));
    sums = sums + load(weights + i);
  }
  return {maximum, reduce_add(sums)};
}

// total and its out += other and its out, DIM (a multiple of 16) wide.
template <int DIM>
inline void merge_softmax(SoftmaxState& total, float* total_out, SoftmaxState other, const float* other_out) {
  if (other.sum == 0.0f) return;
  const float maximum = other.maximum > total.maximum ? other.maximum : total.maximum;
  const float keep = math::exp(total.maximum - maximum), add = math::exp(other.maximum - maximum);
  total = {maximum, math::mul_add(other.sum, add, total.sum * keep)};
  const Vec16 keeps = broadcast(keep), adds = broadcast(add);
  for (int d = 0; d < DIM; d += 16) store(total_out + d, fma(load(other_out + d), adds, load(total_out + d) * keeps));
}

}  // namespace pagedc
