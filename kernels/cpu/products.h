// The products a linear is made of, and the number types its weights are stored in.
//
// A weight format hands over either one k of 16 rows (Vec16, against one float of x) or, where the machine multiplies
// bf16, two adjacent k's of 16 rows (Bf16x32, against a pair of x).
#pragma once

#include "simd.h"

namespace pagedc {

PAGEDC_INLINE Vec16 broadcast_x(const float* x) { return broadcast(*x); }
PAGEDC_INLINE Vec16 product(Vec16 weight, Vec16 x, Vec16 sum) { return fma(weight, x, sum); }

#if defined(PAGEDC_AVX512_BF16)
PAGEDC_INLINE Bf16x32 broadcast_x(const bf16* x) { return broadcast_pair(x); }
PAGEDC_INLINE Vec16 product(Bf16x32 weight, Bf16x32 x, Vec16 sum) { return dot_pairs(weight, x, sum); }
#endif

#if defined(PAGEDC_AVX512)

PAGEDC_INLINE Vec16 load(const f16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
PAGEDC_INLINE Vec16 load(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

#elif defined(PAGEDC_AVX2)

PAGEDC_INLINE Vec16 load(const f16* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
PAGEDC_INLINE Vec16 load(const int8_t* p) {
  const __m256i lo = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m256i hi = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)));
  return {_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
}

#else

PAGEDC_INLINE Vec16 load(const f16* p) {
  float out[16];
  for (int i = 0; i < 16; ++i) out[i] = to_float(p[i]);
  return load(out);
}
PAGEDC_INLINE Vec16 load(const int8_t* p) {
  float out[16];
  for (int i = 0; i < 16; ++i) out[i] = static_cast<float>(p[i]);
  return load(out);
}

#endif

}  // namespace pagedc
