// The one loop of a linear: TOKENS rows of x against PANELS panels of 16 output rows.
//
// Each output's operations are the same in every tile: one accumulator takes the products in the order of k; a group's
// sum is then scaled into the total by one fused multiply-add, and its minimum by another. So TOKENS, PANELS and the
// thread never show in the bits.
#pragma once

#include <utility>

#include "formats.h"

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

// sums[token][panel] += the products of one load at `offset` of each panel with x at `k`.
template <class Format, int TOKENS, int PANELS>
PAGEDC_INLINE void step(Vec16 (&sums)[TOKENS][PANELS], const uint8_t* const (&panels)[PANELS], int64_t offset,
                        const typename Format::X* const (&x)[TOKENS], int64_t k) {
  typename Format::Raw raw[PANELS];
#pragma GCC unroll 8
  for (int p = 0; p < PANELS; ++p) raw[p] = Format::load(panels[p] + offset);
  unroll<Format::WEIGHTS>([&](auto j) __attribute__((always_inline)) {
    decltype(Format::template weight<0>(raw[0])) weights[PANELS];
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; ++p) weights[p] = Format::template weight<decltype(j)::value>(raw[p]);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t) {
      auto value = broadcast_x(x[t] + k + j * Format::X_PER_WEIGHT);
#pragma GCC unroll 8
      for (int p = 0; p < PANELS; ++p) sums[t][p] = product(weights[p], value, sums[t][p]);
    }
  });
}

// totals[TOKENS][PANELS][16] = (resume ? totals : 0) + x · weights over K k's, a multiple of STEP_K (of GROUP).
// group_sums[t][g]: what HAS_MINIMUM multiplies, Σ x over the group.
template <class Format, int TOKENS, int PANELS>
__attribute__((noinline)) void tile(const uint8_t* const* panels_in, const typename Format::X* const* x_in, int64_t K,
                                    const float* const* group_sums_in, bool resume, float* totals_out) {
  const uint8_t* panels[PANELS];
  const typename Format::X* x[TOKENS];
  for (int p = 0; p < PANELS; ++p) panels[p] = panels_in[p];
  for (int t = 0; t < TOKENS; ++t) x[t] = x_in[t];

  Vec16 totals[TOKENS][PANELS];
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; ++p)
      totals[t][p] = resume ? load(totals_out + (t * PANELS + p) * PANEL_ROWS) : zero_vec16();

  if constexpr (Format::GROUP == 0) {
    int64_t offset = 0;
    for (int64_t k = 0; k < K; k += Format::STEP_K, offset += Format::STEP_BYTES)
      step<Format, TOKENS, PANELS>(totals, panels, offset, x, k);
  } else {
    using Scale = typename Format::Scale;
    for (int64_t k = 0, group = 0; k < K; k += Format::GROUP, ++group) {
      const int64_t start = group * Format::GROUP_BYTES;
      Vec16 sums[TOKENS][PANELS];
#pragma GCC unroll 8
      for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 8
        for (int p = 0; p < PANELS; ++p) sums[t][p] = zero_vec16();
      for (int i = 0; i < Format::GROUP / Format::STEP_K; ++i)
        step<Format, TOKENS, PANELS>(sums, panels, start + i * Format::STEP_BYTES, x, k + i * Format::STEP_K);
#pragma GCC unroll 8
      for (int p = 0; p < PANELS; ++p) {
        const Scale* scales = reinterpret_cast<const Scale*>(panels[p] + start + Format::CODE_BYTES);
        const Vec16 scale = load(scales);
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; ++t) totals[t][p] = fma(scale, sums[t][p], totals[t][p]);
        if constexpr (Format::HAS_MINIMUM) {
          const Vec16 minimum = load(scales + PANEL_ROWS);
#pragma GCC unroll 8
          for (int t = 0; t < TOKENS; ++t)
            totals[t][p] = fma(minimum, broadcast(group_sums_in[t][group]), totals[t][p]);
        }
      }
    }
  }

#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; ++t)
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; ++p) pagedc::store(totals_out + (t * PANELS + p) * PANEL_ROWS, totals[t][p]);
}

// tile<…> for a number of tokens known only at run time.
template <class Format, int MAX_TOKENS, int PANELS>
PAGEDC_INLINE void tile_of(int tokens, const uint8_t* const* panels, const typename Format::X* const* x, int64_t K,
                           const float* const* group_sums, bool resume, float* totals) {
  if constexpr (MAX_TOKENS > 1) {
    if (tokens < MAX_TOKENS)
      return tile_of<Format, MAX_TOKENS - 1, PANELS>(tokens, panels, x, K, group_sums, resume, totals);
  }
  tile<Format, MAX_TOKENS, PANELS>(panels, x, K, group_sums, resume, totals);
}

// K k's of a panel, rewritten as Format::Unpacked.
template <class Format>
__attribute__((noinline)) void unpack(const uint8_t* panel, int64_t K, uint8_t* out) {
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
    for (int64_t k = 0; k < K; k += Format::GROUP, panel += Format::GROUP_BYTES) {
      codes(panel, Format::GROUP);
      const auto* scales = reinterpret_cast<const typename Format::Scale*>(panel + Format::CODE_BYTES);
      for (int i = 0; i < (Format::HAS_MINIMUM ? 2 : 1); ++i, out += 64)
        pagedc::store(reinterpret_cast<float*>(out), load(scales + i * PANEL_ROWS));
    }
  }
}

}  // namespace pagedc
