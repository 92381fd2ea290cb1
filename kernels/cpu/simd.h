// Sixteen floats as one value, on every instruction path: one zmm, two ymm, or four 16-byte vectors (SSE2, NEON).
//
// Kernels are written once over Vec16 and Bf16x32. `fma` is a fused multiply-add wherever the path has one; `+` and `*`
// are separate roundings only under -ffp-contract=off, which is how packages are built.
#pragma once

#include "common.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace pagedc {

#if defined(PAGEDC_AVX512)

struct Vec16 {
  __m512 v;
};

PAGEDC_INLINE Vec16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
PAGEDC_INLINE Vec16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
PAGEDC_INLINE void store(float* p, Vec16 a) { _mm512_storeu_ps(p, a.v); }
PAGEDC_INLINE Vec16 operator+(Vec16 a, Vec16 b) { return {_mm512_add_ps(a.v, b.v)}; }
PAGEDC_INLINE Vec16 operator-(Vec16 a, Vec16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
PAGEDC_INLINE Vec16 operator*(Vec16 a, Vec16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
PAGEDC_INLINE Vec16 max(Vec16 a, Vec16 b) { return {_mm512_max_ps(a.v, b.v)}; }
PAGEDC_INLINE Vec16 min(Vec16 a, Vec16 b) { return {_mm512_min_ps(a.v, b.v)}; }
// a * b + c
PAGEDC_INLINE Vec16 fma(Vec16 a, Vec16 b, Vec16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

// value where x >= bound, else 0
PAGEDC_INLINE Vec16 where_at_least(Vec16 x, Vec16 bound, Vec16 value) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, bound.v, _CMP_GE_OQ), value.v)};
}
// Bit i is set where x[i] >= bound[i].
PAGEDC_INLINE uint32_t mask_at_least(Vec16 x, Vec16 bound) { return _mm512_cmp_ps_mask(x.v, bound.v, _CMP_GE_OQ); }

// The first `count` lanes; the others are 0 and their memory is not touched.
PAGEDC_INLINE Vec16 load_first(const float* p, int count) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p)};
}
PAGEDC_INLINE void store_first(float* p, Vec16 a, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), a.v);
}

PAGEDC_INLINE Vec16 load(const bf16* p) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
#if defined(PAGEDC_AVX512_BF16)
PAGEDC_INLINE void store(bf16* p, Vec16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a.v));
}
#else
PAGEDC_INLINE void store(bf16* p, Vec16 a) {
  __m512i bits = _mm512_castps_si512(a.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
#endif

// Sixteen pairs of bf16.
struct Bf16x32 {
  __m512i v;
};
PAGEDC_INLINE Bf16x32 load_pairs(const bf16* p) { return {_mm512_loadu_si512(p)}; }
PAGEDC_INLINE Bf16x32 broadcast_pair(const bf16* p) {
  int32_t pair;
  memcpy(&pair, p, 4);
  return {_mm512_set1_epi32(pair)};
}
PAGEDC_INLINE Vec16 even(Bf16x32 a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }
PAGEDC_INLINE Vec16 odd(Bf16x32 a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}

#elif defined(PAGEDC_AVX2)

struct Vec16 {
  __m256 lo, hi;
};

PAGEDC_INLINE Vec16 broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PAGEDC_INLINE Vec16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PAGEDC_INLINE void store(float* p, Vec16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
PAGEDC_INLINE Vec16 operator+(Vec16 a, Vec16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
PAGEDC_INLINE Vec16 operator-(Vec16 a, Vec16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
PAGEDC_INLINE Vec16 operator*(Vec16 a, Vec16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
PAGEDC_INLINE Vec16 max(Vec16 a, Vec16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
PAGEDC_INLINE Vec16 min(Vec16 a, Vec16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
PAGEDC_INLINE Vec16 fma(Vec16 a, Vec16 b, Vec16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

PAGEDC_INLINE Vec16 where_at_least(Vec16 x, Vec16 bound, Vec16 value) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.lo, bound.lo, _CMP_GE_OQ), value.lo),
          _mm256_and_ps(_mm256_cmp_ps(x.hi, bound.hi, _CMP_GE_OQ), value.hi)};
}
PAGEDC_INLINE uint32_t mask_at_least(Vec16 x, Vec16 bound) {
  const int lo = _mm256_movemask_ps(_mm256_cmp_ps(x.lo, bound.lo, _CMP_GE_OQ));
  const int hi = _mm256_movemask_ps(_mm256_cmp_ps(x.hi, bound.hi, _CMP_GE_OQ));
  return static_cast<uint32_t>(lo | hi << 8);
}

struct Bf16x32 {
  __m256i lo, hi;
};
PAGEDC_INLINE Bf16x32 load_pairs(const bf16* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16))};
}
PAGEDC_INLINE Bf16x32 broadcast_pair(const bf16* p) {
  int32_t pair;
  memcpy(&pair, p, 4);
  return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
PAGEDC_INLINE Vec16 even(Bf16x32 a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a.lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(a.hi, 16))};
}
PAGEDC_INLINE Vec16 odd(Bf16x32 a) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(a.lo, high)), _mm256_castsi256_ps(_mm256_and_si256(a.hi, high))};
}
PAGEDC_INLINE Vec16 load(const bf16* p) {
  __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}

#else

typedef float Vec4 __attribute__((vector_size(16)));
typedef uint32_t Word4 __attribute__((vector_size(16)));

struct Vec16 {
  Vec4 v[4];
};

template <class F>
PAGEDC_INLINE Vec16 by_quarter(const F& f) {
  return {{f(0), f(1), f(2), f(3)}};
}
PAGEDC_INLINE Vec16 broadcast(float x) {
  return by_quarter([&](int) { return Vec4{x, x, x, x}; });
}
// A quarter at a time: whole, GCC would keep every accumulator in memory.
PAGEDC_INLINE Vec16 load(const float* p) {
  return by_quarter([&](int i) {
    Vec4 quarter;
    memcpy(&quarter, p + 4 * i, 16);
    return quarter;
  });
}
PAGEDC_INLINE void store(float* p, Vec16 a) {
  memcpy(p, &a.v[0], 16);
  memcpy(p + 4, &a.v[1], 16);
  memcpy(p + 8, &a.v[2], 16);
  memcpy(p + 12, &a.v[3], 16);
}
PAGEDC_INLINE Vec16 operator+(Vec16 a, Vec16 b) {
  return by_quarter([&](int i) { return a.v[i] + b.v[i]; });
}
PAGEDC_INLINE Vec16 operator-(Vec16 a, Vec16 b) {
  return by_quarter([&](int i) { return a.v[i] - b.v[i]; });
}
PAGEDC_INLINE Vec16 operator*(Vec16 a, Vec16 b) {
  return by_quarter([&](int i) { return a.v[i] * b.v[i]; });
}
PAGEDC_INLINE Vec16 max(Vec16 a, Vec16 b) {
  return by_quarter([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
PAGEDC_INLINE Vec16 min(Vec16 a, Vec16 b) {
  return by_quarter([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
PAGEDC_INLINE Vec16 fma(Vec16 a, Vec16 b, Vec16 c) {
#if defined(__ARM_NEON)
  return by_quarter(
      [&](int i) { return (Vec4)vfmaq_f32((float32x4_t)c.v[i], (float32x4_t)a.v[i], (float32x4_t)b.v[i]); });
#else
  return by_quarter([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
#endif
}

PAGEDC_INLINE Vec16 where_at_least(Vec16 x, Vec16 bound, Vec16 value) {
  return by_quarter([&](int i) { return x.v[i] >= bound.v[i] ? value.v[i] : Vec4{}; });
}
PAGEDC_INLINE uint32_t mask_at_least(Vec16 x, Vec16 bound) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(x.v[i / 4][i % 4] >= bound.v[i / 4][i % 4]) << i;
  return mask;
}

struct Bf16x32 {
  Word4 v[4];
};
PAGEDC_INLINE Bf16x32 load_pairs(const bf16* p) {
  Word4 a, b, c, d;
  memcpy(&a, p, 16);
  memcpy(&b, p + 8, 16);
  memcpy(&c, p + 16, 16);
  memcpy(&d, p + 24, 16);
  return {{a, b, c, d}};
}
PAGEDC_INLINE Bf16x32 broadcast_pair(const bf16* p) {
  uint32_t pair;
  memcpy(&pair, p, 4);
  const Word4 all = {pair, pair, pair, pair};
  return {{all, all, all, all}};
}
PAGEDC_INLINE Vec16 even(Bf16x32 a) {
  return by_quarter([&](int i) { return (Vec4)(a.v[i] << 16); });
}
PAGEDC_INLINE Vec16 odd(Bf16x32 a) {
  return by_quarter([&](int i) { return (Vec4)(a.v[i] & 0xffff0000u); });
}
PAGEDC_INLINE Vec16 load(const bf16* p) {
  float out[16];
  for (int i = 0; i < 16; ++i) out[i] = to_float(p[i]);
  return load(out);
}

#endif

#if !defined(PAGEDC_AVX512)
PAGEDC_INLINE Vec16 load_first(const float* p, int count) {
  float out[16] = {};
  for (int i = 0; i < count; ++i) out[i] = p[i];
  return load(out);
}
PAGEDC_INLINE void store_first(float* p, Vec16 a, int count) {
  float lanes[16];
  store(lanes, a);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}
PAGEDC_INLINE void store(bf16* p, Vec16 a) {
  float lanes[16];
  store(lanes, a);
  for (int i = 0; i < 16; ++i) p[i] = to_bf16(lanes[i]);
}
#endif

PAGEDC_INLINE void store_first(bf16* p, Vec16 a, int count) {
  bf16 lanes[16];
  store(lanes, a);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}

// acc[i] + a[2i] b[2i] + a[2i + 1] b[2i + 1]. VDPBF16PS reads and writes subnormals as zero; the other paths keep them.
PAGEDC_INLINE Vec16 dot_pairs(Bf16x32 a, Bf16x32 b, Vec16 acc) {
#if defined(PAGEDC_AVX512_BF16)
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
#else
  return fma(even(a), even(b), fma(odd(a), odd(b), acc));
#endif
}

PAGEDC_INLINE Vec16 zero_vec16() { return broadcast(0.0f); }

// A whole vector, or the first `count` lanes where fewer are left.
template <class T>
PAGEDC_INLINE Vec16 load_upto(const T* p, int count) {
  return count >= 16 ? load(p) : load_first(p, count);
}
template <class T>
PAGEDC_INLINE void store_upto(T* p, Vec16 a, int count) {
  if (count >= 16)
    store(p, a);
  else
    store_first(p, a, count);
}

// One fixed tree on every path: halves are added, so lanes i and i + 8, then i and i + 4, …
#if defined(PAGEDC_AVX512)
PAGEDC_INLINE float reduce_add(Vec16 a) { return _mm512_reduce_add_ps(a.v); }
PAGEDC_INLINE float reduce_max(Vec16 a) { return _mm512_reduce_max_ps(a.v); }
#else
PAGEDC_INLINE float reduce_add(Vec16 a) {
  float lanes[16];
  store(lanes, a);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}
PAGEDC_INLINE float reduce_max(Vec16 a) {
  float lanes[16];
  store(lanes, a);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i + width] > lanes[i] ? lanes[i + width] : lanes[i];
  return lanes[0];
}
#endif

}  // namespace pagedc
