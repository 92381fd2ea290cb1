// The packed weight formats: what a panel of 16 output rows looks like in memory, and how to read it.
//
// A format is a struct of constants and static functions that the tile kernel is written over:
//   Input               what the caller passes as x
//   X                   what the kernel reads: Input, or float32 where the machine has no bf16 product
//   STEP_K, STEP_BYTES  one load: so many k's of 16 rows in so many bytes; K is padded to a multiple of STEP_K
//   Raw load(p), weight<j>(raw)   the j-th of WEIGHTS products of that load, each over X_PER_WEIGHT k's
//   GROUP, Groups       k's that share a scale, 0 = no groups; where those are in a panel
//   offset(k)           where k, a multiple of SPAN, starts in a panel
//   CHAINS              how many sums the products of an output take turns in
//   Unpacked            the format that many rows of x unpack to, once per block of them; itself = read in place
#pragma once

#include "products.h"

namespace pagedc {

constexpr int PANEL_ROWS = 16;
constexpr int SPAN = 256;  // k's of one unit of 8-bit scales; a multiple of every group

// Groups of G k's: CODE_BYTES of codes, then scale[16], then (HasMinimum) minimum[16], f16 or float. A panel is cut into
// spans of COUNT groups, here of one, that share units.
template <int G, int CODE_BYTES, bool HasMinimum, class Scale>
struct Groups {
  static constexpr int COUNT = 1;
  static constexpr int SPAN_BYTES = CODE_BYTES + (HasMinimum ? 2 : 1) * PANEL_ROWS * static_cast<int>(sizeof(Scale));

  struct Units {
    PAGEDC_INLINE explicit Units(const uint8_t*) {}
  };
  static constexpr int64_t codes(int64_t group) { return group * SPAN_BYTES; }
  static PAGEDC_INLINE Vec16 scale(const uint8_t* span, int, const Units&) { return load(scales(span)); }
  static PAGEDC_INLINE Vec16 minimum(const uint8_t* span, int, const Units&) { return load(scales(span) + PANEL_ROWS); }
  static PAGEDC_INLINE float value(const uint8_t* panel, int64_t group, int row, float code) {
    const Scale* const scale = scales(panel + codes(group)) + row;
    // A scale of at most 20 bits × 4 bits is exact: one rounding at most, fused or not.
    return to_float(*scale) * code + (HasMinimum ? to_float(scale[PANEL_ROWS]) : 0.0f);
  }

 private:
  static PAGEDC_INLINE const Scale* scales(const uint8_t* span) {
    return reinterpret_cast<const Scale*>(span + CODE_BYTES);
  }
};

// The same with scales and minimums of 8 bits, in units of an f16: per SPAN k's the codes of all its groups, their
// scale[16] each, their minimum[16] each, then unit[16] of the scales and unit[16] of the minimums.
template <int G, int CODE_BYTES, bool HasMinimum>
struct Groups<G, CODE_BYTES, HasMinimum, int8_t> {
  static constexpr int COUNT = SPAN / G, SCALES = COUNT * CODE_BYTES, MINIMUMS = SCALES + COUNT * PANEL_ROWS;
  static constexpr int UNITS = HasMinimum ? MINIMUMS + COUNT * PANEL_ROWS : MINIMUMS;
  static constexpr int SPAN_BYTES = UNITS + (HasMinimum ? 2 : 1) * PANEL_ROWS * 2;

  // In registers while a span is read.
  struct Units {
    Vec16 scale, minimum;
    PAGEDC_INLINE explicit Units(const uint8_t* span)
        : scale(load(units(span))), minimum(HasMinimum ? load(units(span) + PANEL_ROWS) : zero_vec16()) {}
  };
  static constexpr int64_t codes(int64_t group) { return group / COUNT * SPAN_BYTES + group % COUNT * CODE_BYTES; }
  static PAGEDC_INLINE Vec16 scale(const uint8_t* span, int i, const Units& units) {
    return load(levels(span, SCALES, i)) * units.scale;
  }
  static PAGEDC_INLINE Vec16 minimum(const uint8_t* span, int i, const Units& units) {
    return load(levels(span, MINIMUMS, i)) * units.minimum;
  }
  static PAGEDC_INLINE float value(const uint8_t* panel, int64_t group, int row, float code) {
    const uint8_t* const span = panel + group / COUNT * SPAN_BYTES;
    const int i = static_cast<int>(group % COUNT);
    const f16* const unit = units(span) + row;
    const float scale = to_float(*unit) * levels(span, SCALES, i)[row];
    return scale * code + (HasMinimum ? to_float(unit[PANEL_ROWS]) * levels(span, MINIMUMS, i)[row] : 0.0f);
  }

 private:
  static PAGEDC_INLINE const int8_t* levels(const uint8_t* span, int part, int i) {
    return reinterpret_cast<const int8_t*>(span + part) + i * PANEL_ROWS;
  }
  static PAGEDC_INLINE const f16* units(const uint8_t* span) { return reinterpret_cast<const f16*>(span + UNITS); }
};

// [K][16] float32.
struct F32 {
  using Input = float;
  using X = float;
  using Raw = Vec16;
  using Unpacked = F32;
  static constexpr int GROUP = 0, CHAINS = 1;
  static constexpr int STEP_K = 1, STEP_BYTES = 64, WEIGHTS = 1, X_PER_WEIGHT = 1;
  static constexpr bool HAS_MINIMUM = false, HAS_ROW_SCALE = false;

  static constexpr int64_t offset(int64_t k) { return k * 64; }
  static constexpr int64_t panel_bytes(int64_t K) { return offset(K); }
  static PAGEDC_INLINE Raw load(const uint8_t* p) { return pagedc::load(reinterpret_cast<const float*>(p)); }
  template <int J>
  static PAGEDC_INLINE Vec16 weight(Raw raw) {
    return raw;
  }
  static PAGEDC_INLINE float value(const uint8_t* panel, int64_t, int row, int64_t k) {
    return reinterpret_cast<const float*>(panel)[k * PANEL_ROWS + row];
  }
};

// [ceil(K / 2)][16][2] bf16.
struct BF16 {
  using Input = bf16;
  using Unpacked = BF16;
  static constexpr int GROUP = 0, CHAINS = 1;
  static constexpr int STEP_K = 2, STEP_BYTES = 64;
  static constexpr bool HAS_MINIMUM = false, HAS_ROW_SCALE = false;

#if defined(PAGEDC_AVX512_BF16)
  using X = bf16;
  static constexpr int WEIGHTS = 1, X_PER_WEIGHT = 2;
  template <int J>
  static PAGEDC_INLINE Bf16x32 weight(Bf16x32 raw) {
    return raw;
  }
#else
  // A product of two bf16 is exact in float32: widen by a shift or a mask, then fuse.
  using X = float;
  static constexpr int WEIGHTS = 2, X_PER_WEIGHT = 1;
  template <int J>
  static PAGEDC_INLINE Vec16 weight(Bf16x32 raw) {
    return J ? odd(raw) : even(raw);
  }
#endif
  using Raw = Bf16x32;
  static PAGEDC_INLINE Raw load(const uint8_t* p) { return load_pairs(reinterpret_cast<const bf16*>(p)); }

  static constexpr int64_t offset(int64_t k) { return k / 2 * 64; }
  static constexpr int64_t panel_bytes(int64_t K) { return offset(K + 1); }
  static PAGEDC_INLINE float value(const uint8_t* panel, int64_t, int row, int64_t k) {
    return to_float(reinterpret_cast<const bf16*>(panel)[(k / 2 * PANEL_ROWS + row) * 2 + k % 2]);
  }
};

#if defined(PAGEDC_AVX512_BF16)

struct alignas(64) Words {
  uint16_t of[32];
};

// bf16 of code − zero for the 16 codes, twice.
constexpr Words int4_table(int zero) {
  constexpr uint16_t MAGNITUDES[16] = {0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
                                       0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170};
  Words table{};
  for (int i = 0; i < 32; ++i) {
    const int value = i % 16 - zero;
    table.of[i] = value < 0 ? 0x8000 | MAGNITUDES[-value] : MAGNITUDES[value];
  }
  return table;
}

// For VPERMT2W: the upper halves of the 32-bit lanes of two vectors, interleaved.
constexpr Words upper_halves() {
  Words indexes{};
  for (int row = 0; row < 16; ++row) {
    indexes.of[2 * row] = static_cast<uint16_t>(2 * row + 1);
    indexes.of[2 * row + 1] = static_cast<uint16_t>(32 + 2 * row + 1);
  }
  return indexes;
}

#endif

#if defined(PAGEDC_AVX512_BF16)
using Widened = BF16;  // what integer codes unpack to: integers up to 256 are exact
#else
using Widened = F32;
#endif

// Integer codes unpacked, without their scales.
struct UnpackedRows : Widened {
  using Unpacked = UnpackedRows;
  static constexpr int CHAINS = 2;
};

// Integer codes unpacked, in groups of [GROUP] k's as Widened with scales and minimums in float32.
template <int G, bool HasMinimum>
struct UnpackedGroups : Widened {
  using Unpacked = UnpackedGroups;
  using Groups = pagedc::Groups<G, G / Widened::STEP_K * Widened::STEP_BYTES, HasMinimum, float>;
  static constexpr int GROUP = G, CHAINS = 2;
  static constexpr bool HAS_MINIMUM = HasMinimum;
  static constexpr int64_t offset(int64_t k) { return Groups::codes(k / G); }
};

// Groups of [G / 8] loads of 64 bytes. weight = scale · (code − 8), or scale · code + minimum.
// A load holds 8 k's as 32 words of 16 bits: word 2 · row + k % 2, nibble j = k 2j + k % 2.
template <int G, bool HasMinimum, class Scale = f16>
struct Int4 {
  static_assert(G == 16 || G == 32 || G == 64 || G == 128, "groups hold 16, 32, 64 or 128 weights");
  using Input = bf16;
#if defined(PAGEDC_AVX512)
  using Unpacked = Int4;  // shifts and lookups run beside the products: 190 against 175 of 234 GFLOP/s on Zen 4
#else
  using Unpacked = UnpackedGroups<G, HasMinimum>;
#endif
  using Groups = pagedc::Groups<G, G * PANEL_ROWS / 2, HasMinimum, Scale>;
  static constexpr int GROUP = G, CHAINS = 2;
  static constexpr bool HAS_MINIMUM = HasMinimum, HAS_ROW_SCALE = false;
  static constexpr int STEP_K = 8, STEP_BYTES = 64;
  static constexpr int ZERO = HasMinimum ? 0 : 8;

#if defined(PAGEDC_AVX512_BF16)
  using X = bf16;
  static constexpr int WEIGHTS = 4, X_PER_WEIGHT = 2;
  static constexpr Words TABLE = int4_table(ZERO);

  // VPERMW reads the low 5 bits of each word; the table stands twice, so the fifth does not matter.
  template <int J>
  static PAGEDC_INLINE Bf16x32 weight(Bf16x32 raw) {
    return {_mm512_permutexvar_epi16(J ? _mm512_srli_epi16(raw.v, 4 * J) : raw.v, _mm512_load_si512(TABLE.of))};
  }
#else
  using X = float;
  static constexpr int WEIGHTS = 8, X_PER_WEIGHT = 1;
  template <int J>
  static PAGEDC_INLINE Vec16 weight(Bf16x32 raw) {
    constexpr int SHIFT = J / 2 * 4 + J % 2 * 16;  // of k = J in the 32 bits of a row
#if defined(PAGEDC_AVX512)
    constexpr float Z = ZERO;
    const __m512 table = _mm512_setr_ps(0 - Z, 1 - Z, 2 - Z, 3 - Z, 4 - Z, 5 - Z, 6 - Z, 7 - Z, 8 - Z, 9 - Z, 10 - Z,
                                        11 - Z, 12 - Z, 13 - Z, 14 - Z, 15 - Z);
    return {_mm512_permutexvar_ps(_mm512_srli_epi32(raw.v, SHIFT), table)};
#elif defined(PAGEDC_AVX2)
    const auto decode = [](__m256i words) {
      const __m256i code = _mm256_and_si256(_mm256_srli_epi32(words, SHIFT), _mm256_set1_epi32(15));
      return _mm256_cvtepi32_ps(ZERO ? _mm256_sub_epi32(code, _mm256_set1_epi32(ZERO)) : code);
    };
    return {decode(raw.lo), decode(raw.hi)};
#else
    typedef int32_t Signed4 __attribute__((vector_size(16)));
    return by_quarter([&](int i) { return __builtin_convertvector((Signed4)((raw.v[i] >> SHIFT) & 15) - ZERO, Vec4); });
#endif
  }
#endif
  using Raw = Bf16x32;
  static PAGEDC_INLINE Raw load(const uint8_t* p) {
    Raw raw = load_pairs(reinterpret_cast<const bf16*>(p));
#if defined(PAGEDC_AVX512)
    asm("" : "+v"(raw.v));  // else GCC reads the line again for each shift
#endif
    return raw;
  }

  static constexpr int64_t offset(int64_t k) { return Groups::codes(k / G); }
  static constexpr int64_t panel_bytes(int64_t K) { return offset(K); }
  static PAGEDC_INLINE float value(const uint8_t* panel, int64_t, int row, int64_t k) {
    uint16_t word;
    memcpy(&word, panel + Groups::codes(k / G) + k % G / 8 * 64 + (row * 2 + k % 2) * 2, 2);
    return Groups::value(panel, k / G, row, static_cast<float>(((word >> (k % 8 / 2 * 4)) & 15) - ZERO));
  }
};

#if defined(PAGEDC_AVX512_BF16)

// Codes of 8 bits, [k][16], two k's at a time. The upper half of float32(code) is bf16(code): 8 bits are exact.
struct Int8Codes {
  using X = bf16;
  using Raw = Bf16x32;
  static constexpr int STEP_K = 2, STEP_BYTES = 32, WEIGHTS = 1, X_PER_WEIGHT = 2;

  static PAGEDC_INLINE Raw load(const uint8_t* p) {
    const int8_t* codes = reinterpret_cast<const int8_t*>(p);
    return {_mm512_permutex2var_epi16(_mm512_castps_si512(pagedc::load(codes).v), _mm512_load_si512(UPPER_HALVES.of),
                                      _mm512_castps_si512(pagedc::load(codes + 16).v))};
  }
  template <int J>
  static PAGEDC_INLINE Bf16x32 weight(Raw raw) {
    return raw;
  }

  static constexpr Words UPPER_HALVES = upper_halves();
};

#else

struct Int8Codes {
  using X = float;
  using Raw = Vec16;
  static constexpr int STEP_K = 1, STEP_BYTES = 16, WEIGHTS = 1, X_PER_WEIGHT = 1;

  static PAGEDC_INLINE Raw load(const uint8_t* p) { return pagedc::load(reinterpret_cast<const int8_t*>(p)); }
  template <int J>
  static PAGEDC_INLINE Vec16 weight(Raw raw) {
    return raw;
  }
};

#endif

// G > 0: groups of [G][16] signed codes.
template <int G, bool HasMinimum = false, class Scale = f16>
struct Int8 : Int8Codes {
  static_assert(G == 16 || G == 32 || G == 64 || G == 128, "groups hold 16 … 128 weights, or a whole row (0)");
  using Input = bf16;
  using Unpacked = UnpackedGroups<G, HasMinimum>;
  using Groups = pagedc::Groups<G, G * PANEL_ROWS, HasMinimum, Scale>;
  static constexpr int GROUP = G, CHAINS = 2;
  static constexpr bool HAS_MINIMUM = HasMinimum, HAS_ROW_SCALE = false;

  static constexpr int64_t offset(int64_t k) { return Groups::codes(k / G); }
  static constexpr int64_t panel_bytes(int64_t K) { return offset(K); }
  static PAGEDC_INLINE float value(const uint8_t* panel, int64_t, int row, int64_t k) {
    const int8_t code = static_cast<int8_t>(panel[Groups::codes(k / G) + k % G * PANEL_ROWS + row]);
    return Groups::value(panel, k / G, row, code);
  }
};

// A scale per row: [K padded to even][16] signed codes, then float32 scale[16].
template <>
struct Int8<0, false, f16> : Int8Codes {
  using Input = bf16;
  using Unpacked = UnpackedRows;
  static constexpr int GROUP = 0, CHAINS = 2;
  static constexpr bool HAS_MINIMUM = false, HAS_ROW_SCALE = true;

  static constexpr int64_t offset(int64_t k) { return k * PANEL_ROWS; }
  static constexpr int64_t scale_offset(int64_t K) { return offset(round_up(K, 2)); }
  static constexpr int64_t panel_bytes(int64_t K) { return scale_offset(K) + 64; }
  static PAGEDC_INLINE float value(const uint8_t* panel, int64_t K, int row, int64_t k) {
    const float code = static_cast<int8_t>(panel[k * PANEL_ROWS + row]);
    return reinterpret_cast<const float*>(panel + scale_offset(K))[row] * code;
  }
};

}  // namespace pagedc
