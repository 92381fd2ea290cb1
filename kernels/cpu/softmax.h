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

#if defined(PAGEDC_AVX512)
// 2^t of lanes that are at most about 0, to 3.4e-6 of itself, for weights that are rounded to bfloat16 (2e-3) right after: half
// the instructions of exp_of_negative. Exactly 0 for -inf; a NaN stays.
PAGEDC_INLINE Vec16 exp2_of_negative(Vec16 t) {
  const __m512 f = _mm512_reduce_ps(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // t - floor(t)
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.01355575f), f, _mm512_set1_ps(0.05203237f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24137976f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69303212f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return {_mm512_scalef_ps(p, t.v)};  // by 2^floor(t)
}
#endif

// weights[i] = e^(scale scores[i] - maximum), rounded, for `count` of them, a multiple of 16; returns the sum of what was
// stored. Weights may overwrite scores from the front.
PAGEDC_INLINE float weights_of(const float* scores, int count, float scale, float maximum, float* weights) {
  const Vec16 scales = broadcast(scale), negated = broadcast(-maximum);
  Vec16 sums = zero_vec16();
  for (int i = 0; i < count; i += 16) {
    const Vec16 weight = exp_of_negative(fma(load(scores + i), scales, negated));
    store(weights + i, weight);
    sums = sums + weight;
  }
  return reduce_add(sums);
}
#if defined(PAGEDC_AVX512_BF16)
PAGEDC_INLINE float weights_of(const float* scores, int count, float scale, float maximum, bf16* weights) {
  constexpr float LOG2_E = 1.44269504f;
  const Vec16 scales = broadcast(scale * LOG2_E), negated = broadcast(-maximum * LOG2_E);
  const __m256bh ones = (__m256bh)_mm256_set1_epi16(0x3f80);
  __m256 sums = _mm256_setzero_ps();  // 8 lanes of a pair each: what a lane adds does not depend on the first block
#pragma GCC unroll 2
  for (int i = 0; i < count; i += 16) {
    const __m256bh weight = _mm512_cvtneps_pbh(exp2_of_negative(fma(load(scores + i), scales, negated)).v);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + i), (__m256i)weight);
    sums = _mm256_dpbf16_ps(sums, weight, ones);
  }
  return reduce_add({_mm512_zextps256_ps512(sums)});
}
#endif

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
  return {maximum, weights_of(scores, count, scale, maximum == -INFINITY ? 0.0f : maximum, weights)};
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
