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
#if defined(__ARM_NEON)
PAGEDC_INLINE Vec16 load(const int8_t* p) {
  const int8x16_t codes = vld1q_s8(p);
  const int16x8_t lo = vmovl_s8(vget_low_s8(codes)), hi = vmovl_s8(vget_high_s8(codes));
  return {{(Vec4)vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), (Vec4)vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))),
           (Vec4)vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), (Vec4)vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi)))}};
}
#elif defined(__SSE2__)
PAGEDC_INLINE Vec16 load(const int8_t* p) {
  // A byte in the upper bits, shifted down, is sign-extended.
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i lo = _mm_unpacklo_epi8(codes, codes), hi = _mm_unpackhi_epi8(codes, codes);
  const auto widen = [](__m128i words) { return (Vec4)_mm_cvtepi32_ps(_mm_srai_epi32(words, 24)); };
  return {{widen(_mm_unpacklo_epi16(lo, lo)), widen(_mm_unpackhi_epi16(lo, lo)), widen(_mm_unpacklo_epi16(hi, hi)),
           widen(_mm_unpackhi_epi16(hi, hi))}};
}
#else
PAGEDC_INLINE Vec16 load(const int8_t* p) {
  float out[16];
  for (int i = 0; i < 16; ++i) out[i] = static_cast<float>(p[i]);
  return load(out);
}
#endif

#endif

}  // namespace pagedc
