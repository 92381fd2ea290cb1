// Number types and the instruction set that this translation unit is compiled for.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// The instruction path is the compiler's -march, decided by `--cpu` when the package is compiled.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512BF16__)
#define PAGEDC_AVX512_BF16 1
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define PAGEDC_AVX512 1
#endif
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PAGEDC_AVX2 1
#endif

#define PAGEDC_INLINE inline __attribute__((always_inline))
#define PAGEDC_RESTRICT __restrict__

namespace pagedc {

// The upper half of a float.
struct bf16 {
  uint16_t bits;
};

// The IEEE half, as GGUF stores scales.
struct f16 {
  uint16_t bits;
};

PAGEDC_INLINE float to_float(float x) { return x; }

PAGEDC_INLINE float to_float(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}

PAGEDC_INLINE float to_float(f16 x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, exponent = (x.bits >> 10) & 31, mantissa = x.bits & 1023;
  float out;
  if (exponent == 0) {
    out = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -out : out;
  }
  uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (mantissa << 13);
  memcpy(&out, &bits, 4);
  return out;
#endif
}

// Round to nearest even; a NaN stays a NaN.
PAGEDC_INLINE bf16 to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  uint32_t quiet = (bits >> 16) | 0x40;
  return bf16{static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded)};
}

PAGEDC_INLINE void store(float* out, float x) { *out = x; }
PAGEDC_INLINE void store(bf16* out, float x) { *out = to_bf16(x); }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace pagedc
