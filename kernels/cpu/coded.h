// bf16 in 12 bits, without loss: the upper byte of a bf16, its sign and most of its exponent, takes few values among
// neighbouring weights, so a code of 4 bits stands for it.
//
// A panel is cut into spans of 256 k's: a line with the 16 upper bytes that are commonest in the span and with the few
// weights that have another, then the codes and the lower bytes. Weights, and so every output's bits, are those of BF16:
// a token reads 24 % less memory. (DFloat11, arXiv:2504.11651, takes 11 bits, but of varying length.)
#pragma once

#include <type_traits>

#include "formats.h"

namespace pagedc {


// One step: 8 k's of 16 rows, four vectors of BF16 one after the other. Of vectors 2 i and 2 i + 1, in each 16 bytes, the
// lower bytes of 8 weights of the first and of 8 of the second stand side by side, as VPUNPCKLBW and VPUNPCKHBW read them;
// so do their codes, which are nibble i of 64 bytes before them.
struct CodedBF16 {
  using Input = bf16;
  using X = BF16::X;
#if defined(PAGEDC_AVX512)
  using Unpacked = CodedBF16;  // decoding runs beside the products: 0.98 of BF16's speed over 512 rows, unpacked 0.93
#else
  using Unpacked = BF16;
#endif
  static constexpr int GROUP = 0, CHAINS = 1;
  static constexpr int VECTORS = 4, STEP_K = VECTORS * BF16::STEP_K, STEP_BYTES = 192, STEP_WEIGHTS = STEP_K * PANEL_ROWS;
  static constexpr int WEIGHTS = VECTORS * BF16::WEIGHTS, X_PER_WEIGHT = BF16::X_PER_WEIGHT;
  static constexpr bool HAS_MINIMUM = false, HAS_ROW_SCALE = false;

  // A weight whose upper byte has no code: `at` counts the span's weights in BF16's order; NONE = the list ends.
  struct Exception {
    static constexpr uint16_t NONE = 0xffff;
    uint16_t at;
    bf16 value;
  };

  // What a span begins with.
  struct Header {
    static constexpr int MAX_EXCEPTIONS = 11;
    uint8_t upper[16];
    uint32_t steps;  // bit i: an exception lies in step i
    Exception exceptions[MAX_EXCEPTIONS];
  };
  static_assert(sizeof(Header) == 64 && SPAN / STEP_K == 32, "a line, and a bit for each step");

  static PAGEDC_INLINE const Header& header(const uint8_t* span) { return *reinterpret_cast<const Header*>(span); }

#if defined(PAGEDC_AVX512)
  using Table = __m512i;
  static PAGEDC_INLINE Table table(const uint8_t* span) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(span)));
  }
  struct Raw {
    __m512i lower[2], upper[2];
  };
  static PAGEDC_INLINE Raw load(const uint8_t* p, Table table) {
    const __m512i codes = _mm512_loadu_si512(p), low = _mm512_set1_epi8(15);
    return {{_mm512_loadu_si512(p + 64), _mm512_loadu_si512(p + 128)},
            {_mm512_shuffle_epi8(table, _mm512_and_si512(codes, low)),
             _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes, 4), low))}};
  }
  template <int J>
  static PAGEDC_INLINE Bf16x32 vector(const Raw& raw) {
    return {J % 2 ? _mm512_unpackhi_epi8(raw.lower[J / 2], raw.upper[J / 2])
                  : _mm512_unpacklo_epi8(raw.lower[J / 2], raw.upper[J / 2])};
  }
#elif defined(PAGEDC_AVX2)
  using Table = __m256i;
  static PAGEDC_INLINE Table table(const uint8_t* span) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(span)));
  }
  struct Raw {
    __m256i lower[2][2], upper[2][2];  // [vectors 2 i and 2 i + 1][half of the rows]
  };
  static PAGEDC_INLINE Raw load(const uint8_t* p, Table table) {
    const __m256i* lines = reinterpret_cast<const __m256i*>(p);
    const __m256i low = _mm256_set1_epi8(15);
    Raw raw;
    for (int half = 0; half < 2; ++half) {
      const __m256i codes = _mm256_loadu_si256(lines + half);
      raw.upper[0][half] = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, low));
      raw.upper[1][half] = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(codes, 4), low));
      for (int i = 0; i < 2; ++i) raw.lower[i][half] = _mm256_loadu_si256(lines + 2 + 2 * i + half);
    }
    return raw;
  }
  template <int J>
  static PAGEDC_INLINE Bf16x32 vector(const Raw& raw) {
    const auto half = [&](int i) __attribute__((always_inline)) {
      const __m256i lower = raw.lower[J / 2][i], upper = raw.upper[J / 2][i];
      return J % 2 ? _mm256_unpackhi_epi8(lower, upper) : _mm256_unpacklo_epi8(lower, upper);
    };
    return {half(0), half(1)};
  }
#else
  using Table = const uint8_t*;
  static PAGEDC_INLINE Table table(const uint8_t* span) { return span; }
  struct Raw {
    bf16 weights[VECTORS][32];
  };
  static PAGEDC_INLINE Raw load(const uint8_t* p, Table table) {
    Raw raw;
    for (int vector = 0; vector < VECTORS; ++vector)
      for (int i = 0; i < 32; ++i) {
        const int byte = i / 8 * 16 + vector % 2 * 8 + i % 8;
        const int upper = table[p[byte] >> (vector / 2 * 4) & 15], lower = p[64 + vector / 2 * 64 + byte];
        raw.weights[vector][i].bits = static_cast<uint16_t>(upper << 8 | lower);
      }
    return raw;
  }
  template <int J>
  static PAGEDC_INLINE Bf16x32 vector(const Raw& raw) {
    return load_pairs(raw.weights[J]);
  }
#endif

  template <int J>
  static PAGEDC_INLINE auto weight(const Raw& raw) {
    return BF16::weight<J % BF16::WEIGHTS>(vector<J / BF16::WEIGHTS>(raw));
  }

  // K k's of a span as BF16 has them.
  static PAGEDC_INLINE void unpack_span(const uint8_t* span, int K, bf16* out) {
    const Table upper = table(span);
    const uint8_t* step = span + sizeof(Header);
    for (bf16 *to = out, *end = out + K * PANEL_ROWS; to < end; to += STEP_WEIGHTS, step += STEP_BYTES) {
      const Raw raw = load(step, upper);
      const Bf16x32 vectors[VECTORS] = {vector<0>(raw), vector<1>(raw), vector<2>(raw), vector<3>(raw)};
      memcpy(to, vectors, sizeof(vectors));
    }
    if (header(span).steps)
      for (const Exception& exception : header(span).exceptions)
        if (exception.at != Exception::NONE) out[exception.at] = exception.value;
  }

  // Step i of it.
  static PAGEDC_INLINE void unpack_step(const uint8_t* span, int i, Table upper, bf16* out) {
    const Raw raw = load(span + sizeof(Header) + i * STEP_BYTES, upper);
    const Bf16x32 vectors[VECTORS] = {vector<0>(raw), vector<1>(raw), vector<2>(raw), vector<3>(raw)};
    memcpy(out, vectors, sizeof(vectors));
    for (const Exception& exception : header(span).exceptions)
      if (exception.at / STEP_WEIGHTS == i) out[exception.at % STEP_WEIGHTS] = exception.value;
  }

  // Of whole spans, and a last one that may be shorter.
  static constexpr int64_t offset(int64_t k) {
    return ceil_div(k, SPAN) * static_cast<int64_t>(sizeof(Header)) + k / STEP_K * STEP_BYTES;
  }
  static constexpr int64_t panel_bytes(int64_t K) { return offset(round_up(K, STEP_K)); }
  static PAGEDC_INLINE float value(const uint8_t* panel, int64_t, int row, int64_t k) {
    const uint8_t* const span = panel + offset(k / SPAN * SPAN);
    const int at = static_cast<int>(k % SPAN / 2 * PANEL_ROWS + row) * 2 + static_cast<int>(k % 2);
    const int i = at / STEP_WEIGHTS, vector = at / 32 % VECTORS, place = at % 32;
    const uint8_t* const step = span + sizeof(Header) + i * STEP_BYTES;
    const int byte = place / 8 * 16 + vector % 2 * 8 + place % 8;
    if (header(span).steps >> i & 1)
      for (const Exception& exception : header(span).exceptions)
        if (exception.at == at) return to_float(exception.value);
    const int code = step[byte] >> (vector / 2 * 4) & 15;
    const bf16 bits = {static_cast<uint16_t>(header(span).upper[code] << 8 | step[64 + vector / 2 * 64 + byte])};
    return to_float(bits);
  }
};

template <class Format>
constexpr bool IS_CODED = std::is_same<Format, CodedBF16>::value;

}  // namespace pagedc
