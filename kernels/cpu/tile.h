// The one loop of a linear: TOKENS rows of x against PANELS panels of 16 output rows.
//
// Each output's operations are the same in every tile, in the order of k: a format's chains of sums take the products in
// turn (two chains have half the latency to hide); a group's chains are added, scaled into the total by one fused
// multiply-add, and the minimum by another. So TOKENS, PANELS and the thread never show in the bits.
#pragma once

#include <utility>

#include "coded.h"

namespace pagedc {

// f(std::integral_constant<int, 0>), …, N - 1.
template <class F, int... I>
PAGEDC_INLINE void unroll_sequence(const F& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
PAGEDC_INLINE void unroll(const F& f) {
  unroll_sequence(f, std::make_integer_sequence<int, N>{});
}

// Weights to ask for on the way: byte b of panel p brings the line of `of[p] + (b >> shift)`. Several rows of x take so long
// over a line that the hardware's prefetcher falls asleep; one row keeps it awake, and is slowed by more instructions (24
// against 21 GB/s). Into the second level: what is asked for far ahead would not stay in the first.
struct Ahead {
  const uint8_t* const* of;
  int shift;
};

template <int TOKENS>
PAGEDC_INLINE void prefetch(const Ahead& ahead, int panel, int64_t offset) {
  if (TOKENS > 2) __builtin_prefetch(ahead.of[panel] + (offset >> ahead.shift), 0, 2);
}

// Instead, where many tiles share what one of them waits for: a tile of three panels has no registers left to ask with.
struct NotAhead {};
template <int TOKENS>
PAGEDC_INLINE void prefetch(NotAhead, int, int64_t) {}

// Adds the products of a load of each panel with x at `k`: weight j goes to chain (FIRST + j) % CHAINS.
template <class Format, int FIRST, int CHAINS, int TOKENS, int PANELS>
PAGEDC_INLINE void multiply(Vec16 (&sums)[CHAINS][TOKENS][PANELS], const typename Format::Raw (&raw)[PANELS],
                            const typename Format::X* const (&x)[TOKENS], int64_t k) {
  unroll<Format::WEIGHTS>([&](auto j) __attribute__((always_inline)) {
    constexpr int CHAIN = (FIRST + decltype(j)::value) % CHAINS;
    decltype(Format::template weight<0>(raw[0])) weights[PANELS];
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; ++p) weights[p] = Format::template weight<decltype(j)::value>(raw[p]);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t) {
      const auto value = broadcast_x(x[t] + k + j * Format::X_PER_WEIGHT);
#pragma GCC unroll 8
      for (int p = 0; p < PANELS; ++p) sums[CHAIN][t][p] = product(weights[p], value, sums[CHAIN][t][p]);
    }
  });
}

// The same of what lies at `offset` of each panel.
template <class Format, int FIRST, int CHAINS, int TOKENS, int PANELS>
PAGEDC_INLINE void step(Vec16 (&sums)[CHAINS][TOKENS][PANELS], const uint8_t* const (&panels)[PANELS], int64_t offset,
                        const typename Format::X* const (&x)[TOKENS], int64_t k) {
  typename Format::Raw raw[PANELS];
#pragma GCC unroll 8
  for (int p = 0; p < PANELS; ++p) raw[p] = Format::load(panels[p] + offset);
  multiply<Format, FIRST>(sums, raw, x, k);
}

// The units of a span of each panel.
template <class Format, int PANELS, class = std::make_integer_sequence<int, PANELS>>
struct UnitsOf;
template <class Format, int PANELS, int... P>
struct UnitsOf<Format, PANELS, std::integer_sequence<int, P...>> {
  typename Format::Groups::Units of[PANELS];
  PAGEDC_INLINE UnitsOf(const uint8_t* const (&panels)[PANELS], int64_t span)
      : of{typename Format::Groups::Units(panels[P] + span * Format::Groups::SPAN_BYTES)...} {}
};

// totals += scale · (the products of group i of a span) + minimum · (the group's x)
template <class Format, int TOKENS, int PANELS, class Units, class Look>
PAGEDC_INLINE void add_group(Vec16 (&totals)[TOKENS][PANELS], const uint8_t* const (&panels)[PANELS], int64_t span, int i,
                             const Units& units, const typename Format::X* const (&x)[TOKENS],
                             const float* const* group_sums, const Look& ahead) {
  using Groups = typename Format::Groups;
  constexpr int BYTES = Groups::SPAN_BYTES / Groups::COUNT;  // a group's share
  constexpr int LOADS = Format::WEIGHTS % 2 ? 2 : 1;  // until both chains have had as many weights
  const int64_t offset = span * Groups::SPAN_BYTES, group = span * Groups::COUNT + i, k = group * Format::GROUP;
  const int64_t start = offset + Groups::codes(i);
#pragma GCC unroll 8
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 32
    for (int line = 0; line < BYTES; line += 64) prefetch<TOKENS>(ahead, p, offset + i * BYTES + line);
  Vec16 sums[2][TOKENS][PANELS];
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; ++p) sums[0][t][p] = sums[1][t][p] = zero_vec16();
  // Not unrolled further: an instruction that reads on by a line each time is what the prefetcher follows.
#pragma GCC unroll 1
  for (int n = 0; n < Format::GROUP / Format::STEP_K; n += LOADS)
    unroll<LOADS>([&](auto j) __attribute__((always_inline)) {
      step<Format, decltype(j)::value>(sums, panels, start + (n + j) * Format::STEP_BYTES, x,
                                       k + (n + j) * Format::STEP_K);
    });
#pragma GCC unroll 8
  for (int p = 0; p < PANELS; ++p) {
    const Vec16 scale = Groups::scale(panels[p] + offset, i, units.of[p]);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t) totals[t][p] = fma(scale, sums[0][t][p] + sums[1][t][p], totals[t][p]);
    if constexpr (Format::HAS_MINIMUM) {
      const Vec16 minimum = Groups::minimum(panels[p] + offset, i, units.of[p]);
#pragma GCC unroll 8
      for (int t = 0; t < TOKENS; ++t) totals[t][p] = fma(minimum, broadcast(group_sums[t][group]), totals[t][p]);
    }
  }
}

// totals += the products of `num_steps` steps of a span of coded weights; in the few that have exceptions, of what they unpack to.
template <int TOKENS, int PANELS, class Look>
PAGEDC_INLINE void add_coded_span(Vec16 (&totals)[1][TOKENS][PANELS], const uint8_t* const (&panels)[PANELS], int64_t offset,
                                  int num_steps, const CodedBF16::X* const (&x)[TOKENS], int64_t k, const Look& ahead) {
  const uint8_t* spans[PANELS];
  CodedBF16::Table tables[PANELS];
  uint32_t exceptions = 0;
#pragma GCC unroll 8
  for (int p = 0; p < PANELS; ++p) {
    spans[p] = panels[p] + offset;
    tables[p] = CodedBF16::table(spans[p]);
    exceptions |= CodedBF16::header(spans[p]).steps;
  }
#pragma GCC unroll 1
  for (int i = 0; i < num_steps; ++i, k += CodedBF16::STEP_K, exceptions >>= 1) {
    const int64_t at = sizeof(CodedBF16::Header) + i * CodedBF16::STEP_BYTES;
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 8
      for (int line = 0; line < CodedBF16::STEP_BYTES; line += 64) prefetch<TOKENS>(ahead, p, offset + at + line);
    if (__builtin_expect(exceptions & 1, 0)) {
      alignas(64) bf16 weights[PANELS][CodedBF16::STEP_WEIGHTS];
      const uint8_t* unpacked[PANELS];
      for (int p = 0; p < PANELS; ++p) {
        CodedBF16::unpack_step(spans[p], i, tables[p], weights[p]);
        unpacked[p] = reinterpret_cast<const uint8_t*>(weights[p]);
      }
      unroll<CodedBF16::VECTORS>([&](auto j) __attribute__((always_inline)) {
        step<BF16, 0>(totals, unpacked, j * BF16::STEP_BYTES, x, k + j * BF16::STEP_K);
      });
      continue;
    }
    CodedBF16::Raw raw[PANELS];
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; ++p) raw[p] = CodedBF16::load(spans[p] + at, tables[p]);
    multiply<CodedBF16, 0>(totals, raw, x, k);
  }
}

// out[TOKENS][PANELS][TOTALS][16] = (resume ? out : 0) + x · weights over K k's, a multiple of STEP_K (of GROUP, of SPAN); an
// output is the sum of its TOTALS. group_sums[t][g]: what HAS_MINIMUM multiplies, Σ x over the group.
template <class Format>
constexpr int TOTALS = Format::GROUP ? 1 : Format::CHAINS;

template <class Format, int TOKENS, int PANELS, class Look>
__attribute__((noinline)) void tile(const uint8_t* const* panels_in, const typename Format::X* const* x_in, int64_t K,
                                    const float* const* group_sums, bool resume, Look ahead, float* out) {
  const uint8_t* panels[PANELS];
  const typename Format::X* x[TOKENS];
  for (int p = 0; p < PANELS; ++p) panels[p] = panels_in[p];
  for (int t = 0; t < TOKENS; ++t) x[t] = x_in[t];

  Vec16 totals[TOTALS<Format>][TOKENS][PANELS];
  const auto each = [&](const auto& f) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 8
      for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 2
        for (int c = 0; c < TOTALS<Format>; ++c)
          f(totals[c][t][p], out + ((t * PANELS + p) * TOTALS<Format> + c) * PANEL_ROWS);
  };
  each([&](Vec16& total, const float* from) __attribute__((always_inline)) {
    total = resume ? load(from) : zero_vec16();
  });
  if constexpr (Format::GROUP) {
    using Groups = typename Format::Groups;
    for (int64_t span = 0; span < K / Format::GROUP / Groups::COUNT; ++span) {
      const UnitsOf<Format, PANELS> units(panels, span);
#pragma GCC unroll 1
      for (int i = 0; i < Groups::COUNT; ++i)
        add_group<Format>(totals[0], panels, span, i, units, x, group_sums, ahead);
    }
  } else if constexpr (IS_CODED<Format>) {
    for (int64_t k = 0; k < K; k += SPAN) {
      const int64_t length = K - k < SPAN ? K - k : SPAN;
      add_coded_span(totals, panels, Format::offset(k), static_cast<int>(length / Format::STEP_K), x, k, ahead);
    }
  } else {
    constexpr int LOADS = Format::CHAINS;
    const int64_t num_steps = K / Format::STEP_K;
    int64_t i = 0;
    for (; i + LOADS <= num_steps; i += LOADS) {
#pragma GCC unroll 8
      for (int p = 0; p < PANELS; ++p) prefetch<TOKENS>(ahead, p, i * Format::STEP_BYTES);
      unroll<LOADS>([&](auto j) __attribute__((always_inline)) {
        step<Format, decltype(j)::value>(totals, panels, (i + j) * Format::STEP_BYTES, x, (i + j) * Format::STEP_K);
      });
    }
    if (LOADS > 1 && i < num_steps) step<Format, 0>(totals, panels, i * Format::STEP_BYTES, x, i * Format::STEP_K);
  }
  each([&](Vec16 total, float* to) __attribute__((always_inline)) { pagedc::store(to, total); });
}

// tile<…> for a number of tokens known only at run time.
template <class Format, int MAX_TOKENS, int PANELS, class Look>
PAGEDC_INLINE void tile_of(int tokens, const uint8_t* const* panels, const typename Format::X* const* x, int64_t K,
                           const float* const* group_sums, bool resume, Look ahead, float* totals) {
  if constexpr (MAX_TOKENS > 1) {
    if (tokens < MAX_TOKENS)
      return tile_of<Format, MAX_TOKENS - 1, PANELS>(tokens, panels, x, K, group_sums, resume, ahead, totals);
  }
  tile<Format, MAX_TOKENS, PANELS>(panels, x, K, group_sums, resume, ahead, totals);
}

// Integer codes, with what scales them.
template <class Format>
PAGEDC_INLINE void unpack_codes(const uint8_t* panel, int64_t K, uint8_t* out) {
  constexpr int OUT_BYTES = Format::X_PER_WEIGHT * PANEL_ROWS * sizeof(typename Format::X);
  const auto codes = [&](const uint8_t* p, int64_t k_end) __attribute__((always_inline)) {
    for (int64_t k = 0; k < k_end; k += Format::STEP_K, p += Format::STEP_BYTES) {
      const typename Format::Raw raw = Format::load(p);
      unroll<Format::WEIGHTS>([&](auto j) __attribute__((always_inline)) {
        const auto weight = Format::template weight<decltype(j)::value>(raw);
        memcpy(out + j * OUT_BYTES, &weight, OUT_BYTES);
      });
      out += Format::WEIGHTS * OUT_BYTES;
    }
  };
  if constexpr (Format::GROUP == 0) {
    codes(panel, K);
  } else {
    using Groups = typename Format::Groups;
    for (int64_t group = 0; group < K / Format::GROUP; ++group) {
      codes(panel + Groups::codes(group), Format::GROUP);
      const uint8_t* const span = panel + group / Groups::COUNT * Groups::SPAN_BYTES;
      const int i = static_cast<int>(group % Groups::COUNT);
      const typename Groups::Units units(span);
      pagedc::store(reinterpret_cast<float*>(out), Groups::scale(span, i, units));
      out += 64;
      if constexpr (Format::HAS_MINIMUM) {
        pagedc::store(reinterpret_cast<float*>(out), Groups::minimum(span, i, units));
        out += 64;
      }
    }
  }
}

inline void unpack_coded(const uint8_t* panel, int64_t K, bf16* out) {
  for (int64_t k = 0; k < K; k += SPAN, out += SPAN * PANEL_ROWS)
    CodedBF16::unpack_span(panel + CodedBF16::offset(k), static_cast<int>(K - k < SPAN ? K - k : SPAN), out);
}

// K k's of a panel, rewritten as Format::Unpacked.
template <class Format>
__attribute__((noinline)) void unpack(const uint8_t* panel, int64_t K, uint8_t* out) {
  if constexpr (IS_CODED<Format>)
    unpack_coded(panel, K, reinterpret_cast<bf16*>(out));
  else
    unpack_codes<Format>(panel, K, out);
}

}  // namespace pagedc
