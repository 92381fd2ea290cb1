// exp, log, tanh, … of a float, as straight-line code that the compiler vectorises inside `#pragma omp simd` loops
// without -ffast-math and without a vector library (the flags of pagedc.kernels.cpu.COMPILE_FLAGS are needed: selects on
// a comparison stay branches under -ftrapping-math). Errors are in units in the last place, measured over every exponent
// by tests/kernels/test_vector_math.py; infinities, NaN and subnormals give what libm gives.
#pragma once

#include <math.h>

#include "common.h"

namespace pagedc {
namespace math {

// a * b + c, fused where the instruction set has it: a call to libm's fmaf would end vectorisation.
PAGEDC_INLINE float mul_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

PAGEDC_INLINE uint32_t to_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
PAGEDC_INLINE float from_bits(uint32_t x) { return __builtin_bit_cast(float, x); }

// x * 2^n for n in [-252, 254], given as the low bits of a float; two steps, so that neither over- nor underflows early.
PAGEDC_INLINE float scale_by_power(float x, uint32_t n) {
  const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(n) >> 1);
  return x * from_bits((half + 127) << 23) * from_bits((n - half + 127) << 23);
}

// Adding it rounds to an integer, which then stands in the low bits.
constexpr float ROUND_MAGIC = 0x1.8p23f;

// (e^r - 1) for |r| <= log(2) / 2
PAGEDC_INLINE float expm1_reduced(float r) {
  float p = 0.00139508315f;
  p = mul_add(p, r, 0.00836908817f);
  p = mul_add(p, r, 0.0416662022f);
  p = mul_add(p, r, 0.166665167f);
  p = mul_add(p, r, 0.5f);
  return mul_add(r * r, p, r);
}

struct ExpParts {
  float p;     // e^x = (1 + p) * 2^n
  uint32_t n;  // as int32
};

PAGEDC_INLINE ExpParts exp_parts(float x) {
  const float shifted = mul_add(x, 1.44269504f, ROUND_MAGIC);
  const float n = shifted - ROUND_MAGIC;
  float r = mul_add(n, -0.693359375f, x);  // 355 / 512: n times it is exact
  r = mul_add(n, 2.12194440e-4f, r);
  return {expm1_reduced(r), to_bits(shifted) - to_bits(ROUND_MAGIC)};
}

// <= 1 ulp
PAGEDC_INLINE float exp(float x) {
  x = x > 89.0f ? 89.0f : x;  // a NaN passes both
  x = x < -105.0f ? -105.0f : x;
  const ExpParts e = exp_parts(x);
  return scale_by_power(1.0f + e.p, e.n);
}

// <= 1 ulp
PAGEDC_INLINE float exp2(float x) {
  x = x > 129.0f ? 129.0f : x;
  x = x < -151.0f ? -151.0f : x;
  const float shifted = x + ROUND_MAGIC;
  const float p = expm1_reduced((x - (shifted - ROUND_MAGIC)) * 0.693147181f);
  return scale_by_power(1.0f + p, to_bits(shifted) - to_bits(ROUND_MAGIC));
}

// <= 2 ulp, and so near zero too
PAGEDC_INLINE float expm1(float x) {
  const float large = exp(x);
  float y = x > 60.0f ? 60.0f : x;
  y = y < -30.0f ? -30.0f : y;
  const ExpParts e = exp_parts(y);
  const float power = from_bits((e.n + 127) << 23);
  const float small = mul_add(e.p, power, power - 1.0f);
  const float result = x > 60.0f ? large : small;
  return x == 0.0f ? x : result;  // keeps the sign of zero
}

// <= 1 ulp. The method of FreeBSD's e_logf.c: log(1 + f) by s = f / (2 + f).
PAGEDC_INLINE float log(float x) {
  const bool subnormal = x < 0x1p-126f;
  const uint32_t bits = to_bits(subnormal ? x * 0x1p23f : x) + (0x3f800000 - 0x3f3504f3);
  const float k = static_cast<float>(static_cast<int32_t>(bits >> 23) - 127 - (subnormal ? 23 : 0));
  const float f = from_bits((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const float s = f / (2.0f + f), z = s * s, half_square = 0.5f * f * f;
  float r = mul_add(z, 0.24279078841f, 0.28498786688f);
  r = mul_add(r, z, 0.40000972152f);
  r = mul_add(r, z, 0.66666662693f) * z;
  float result = mul_add(s, half_square + r, k * 9.0580006145e-6f);
  result = mul_add(k, 0.69313812256f, (result - half_square) + f);
  result = x == INFINITY ? x : result;
  result = x == 0.0f ? -INFINITY : result;
  return x >= 0.0f ? result : NAN;  // also for a NaN
}

PAGEDC_INLINE float log2(float x) { return log(x) * 1.44269504f; }

// log(1 + x), <= 2 ulp, and so near zero too
PAGEDC_INLINE float log1p(float x) {
  const float u = 1.0f + x;
  const float correction = (x - (u - 1.0f)) / u;  // what 1 + x rounded away
  const float result = log(u) + correction;
  const float tiny = x > -0x1p-24f && x < 0x1p-24f ? x : result;
  return u > 0.0f && u < INFINITY ? tiny : log(u);
}

// log(1 + e^x), <= 2 ulp
PAGEDC_INLINE float softplus(float x) {
  const float magnitude = __builtin_fabsf(x);
  return (x <= 0.0f ? 0.0f : x) + log1p(exp(-magnitude));  // a NaN is not <= 0, and stays one
}

// <= 2.5 ulp
PAGEDC_INLINE float sigmoid(float x) {
  const float e = exp(-__builtin_fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// x * sigmoid(x), <= 3 ulp of a normal result
PAGEDC_INLINE float silu(float x) {
  const float y = x < -120.0f ? -120.0f : x;  // so that -inf gives -0, not -inf times 0
  return y * sigmoid(y);
}

// <= 2.5 ulp
PAGEDC_INLINE float tanh(float x) {
  float magnitude = __builtin_fabsf(x);
  magnitude = magnitude > 10.0f ? 10.0f : magnitude;
  const ExpParts e = exp_parts(magnitude + magnitude);
  const float power = from_bits((e.n + 127) << 23);
  const float t = mul_add(e.p, power, power - 1.0f);
  return __builtin_copysignf(t / (t + 2.0f), x);
}

// <= 2 ulp
PAGEDC_INLINE float erf(float x) {
  const float magnitude = __builtin_fabsf(x), square = x * x;
  float p = 7.88911566e-05f;  // erf(x) = x + x p(x²) for |x| <= 1
  p = mul_add(p, square, -0.000802083989f);
  p = mul_add(p, square, 0.00518953521f);
  p = mul_add(p, square, -0.0268544443f);
  p = mul_add(p, square, 0.112836003f);
  p = mul_add(p, square, -0.37612626f);
  p = mul_add(p, square, 0.128379166f);
  const float small = mul_add(p, x, x);

  const float t = magnitude > 4.0f ? 4.0f : magnitude;
  float q = -0.000214155749f;  // erf(x) = 1 - e^(-x - x q(x)) above
  q = mul_add(q, t, 0.00321646594f);
  q = mul_add(q, t, -0.0228951685f);
  q = mul_add(q, t, 0.105270572f);
  q = mul_add(q, t, 0.635711193f);
  q = mul_add(q, t, 0.128516614f);
  const float large = __builtin_copysignf(1.0f - exp(-mul_add(q, t, t)), x);
  return magnitude > 1.0f ? large : small;
}

// One call of libm each: they are used by position embeddings, once per token, with arguments up to 10^6.
inline float sin(float x) { return ::sinf(x); }
inline float cos(float x) { return ::cosf(x); }
inline float pow(float x, float y) { return ::powf(x, y); }

}  // namespace math
}  // namespace pagedc
