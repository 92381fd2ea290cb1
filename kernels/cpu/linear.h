// out[t, n] = Σ_k x[t, k] · W[n, k], with W packed in panels of 16 output rows (formats.h).
//
// A handful of tokens decode each weight straight into registers: the packed bytes are read once, at the memory's
// speed. More tokens unpack a run of a few panels into the first-level cache once and reuse it for a whole block of
// tokens. Both do the same operations for each output.
#pragma once

#include <type_traits>

#include "team.h"
#include "tile.h"

namespace pagedc {

// Registers decide the tiles: 32 of 16 floats, 16 of 8, or 16 to 32 of 4.
#if defined(PAGEDC_AVX512)
constexpr int GROUPED_TILE_PANELS = 2;  // of a tile with groups: a sum and a total for each output
constexpr int WIDE_PANELS = 4;   // of a tile without
constexpr int TILE_TOKENS = 6;
#elif defined(PAGEDC_AVX2)
constexpr int GROUPED_TILE_PANELS = 1;
constexpr int WIDE_PANELS = 1;
constexpr int TILE_TOKENS = 4;
#else
constexpr int GROUPED_TILE_PANELS = 1;
constexpr int WIDE_PANELS = 1;
constexpr int TILE_TOKENS = 2;
#endif
constexpr int DIRECT_TOKENS = TILE_TOKENS < 4 ? TILE_TOKENS : 4;  // up to here, weights are decoded into registers
constexpr int BLOCK_TOKENS = 128;                                 // reuse of an unpacked run
constexpr int RUN_BYTES = 16 << 10;  // of unpacked weights: half of the smallest L1

// What one thread needs while it is inside a linear.
struct LinearScratch {
  static constexpr int64_t ROWS_BYTES = 1 << 20;
  alignas(64) uint8_t rows[ROWS_BYTES];  // x as the kernel reads it, where that is not as it came; group sums
  alignas(64) uint8_t run[2 * RUN_BYTES + 4096];
  alignas(64) float totals[BLOCK_TOKENS * WIDE_PANELS * PANEL_ROWS];
  const void* x[BLOCK_TOKENS];
  const float* group_sums[BLOCK_TOKENS];
};

// Hidden: two packages in one process must not share it.
__attribute__((visibility("hidden"))) inline LinearScratch& linear_scratch() {
  static thread_local LinearScratch scratch;
  return scratch;
}

// The rows of x that one tile or block of tokens works on.
template <class W>
class Rows {
 public:
  using X = typename W::X;
  using Input = typename W::Input;

  static constexpr int64_t padded(int64_t K) { return round_up(K, W::STEP_K); }
  static constexpr bool copied(int64_t K) { return sizeof(X) != sizeof(Input) || padded(K) != K; }
  static constexpr int64_t copy_bytes(int64_t K) { return copied(K) ? round_up(padded(K) * sizeof(X), 64) : 0; }
  static constexpr int64_t sums_bytes(int64_t K) {
    return W::HAS_MINIMUM ? round_up(K / (W::GROUP ? W::GROUP : 1) * 4, 64) : 0;
  }
  // The most rows that fit in the scratch.
  static constexpr int max_rows(int64_t K) {
    const int64_t bytes = copy_bytes(K) + sums_bytes(K);
    return bytes * BLOCK_TOKENS <= LinearScratch::ROWS_BYTES ? BLOCK_TOKENS
                                                             : static_cast<int>(LinearScratch::ROWS_BYTES / bytes);
  }

  // Row i is source(i), for i in [0, count).
  template <class Source>
  static PAGEDC_INLINE void prepare(LinearScratch& scratch, int count, int64_t K, const Source& source) {
    for (int i = 0; i < count; ++i) prepare_row(scratch, i, K, source(i));
  }

 private:
  static __attribute__((noinline)) void prepare_row(LinearScratch& scratch, int i, int64_t K, const Input* source) {
    uint8_t* own = scratch.rows + i * (copy_bytes(K) + sums_bytes(K));
    const X* row;
    if (copied(K)) {
      X* copy = reinterpret_cast<X*>(own);
      for (int64_t k = 0; k < K; ++k) convert(copy + k, source[k]);
      for (int64_t k = K; k < padded(K); ++k) copy[k] = X{};
      row = copy;
    } else {
      row = reinterpret_cast<const X*>(source);
    }
    scratch.x[i] = row;
    if constexpr (W::HAS_MINIMUM) {
      float* sums = reinterpret_cast<float*>(own + copy_bytes(K));
      for (int64_t k = 0; k < K; k += W::GROUP) {
        Vec16 sum = load(row + k);
        for (int i = PANEL_ROWS; i < W::GROUP; i += PANEL_ROWS) sum = sum + load(row + k + i);
        *sums++ = reduce_add(sum);
      }
      scratch.group_sums[i] = sums - K / W::GROUP;
    }
  }
  static PAGEDC_INLINE void convert(float* out, float x) { *out = x; }
  static PAGEDC_INLINE void convert(float* out, bf16 x) { *out = to_float(x); }
  static PAGEDC_INLINE void convert(bf16* out, bf16 x) { *out = x; }
};

template <class W>
constexpr int tile_panels = W::GROUP ? GROUPED_TILE_PANELS : WIDE_PANELS;

// Panels first … first + count − 1 of a matrix; past the end, the last one again.
template <int COUNT>
struct PanelPointers {
  const uint8_t* of[COUNT];
  PanelPointers(const void* packed, int64_t panel_bytes, int64_t first, int64_t end) {
    for (int p = 0; p < COUNT; ++p)
      of[p] = static_cast<const uint8_t*>(packed) + (first + p < end ? first + p : end - 1) * panel_bytes;
  }
};

// Hands totals[count][COUNT][16] of the panels from `first` to the caller's epilogue: store(row, n, acc, valid).
template <class W, int N, int K, int COUNT, class Store>
PAGEDC_INLINE void finish(const PanelPointers<COUNT>& panels, int64_t first, int first_row, int count, float* totals,
                          const Store& store) {
  for (int p = 0; p < COUNT; ++p) {
    const int n = static_cast<int>(first + p) * PANEL_ROWS;
    if (n >= N) break;
    const int valid = N - n < PANEL_ROWS ? N - n : PANEL_ROWS;
    for (int i = 0; i < count; ++i) {
      float* total = totals + (i * COUNT + p) * PANEL_ROWS;
      if constexpr (W::HAS_ROW_SCALE) {
        const float* scales = reinterpret_cast<const float*>(panels.of[p] + W::scale_offset(K));
        pagedc::store(total, load(total) * load(scales));
      }
      store(first_row + i, n, static_cast<const float*>(total), valid);
    }
  }
}

// A few rows (at most DIRECT_TOKENS, prepared) against panels [first, end): weights are decoded into registers.
template <class W, int N, int K, class Store>
void few_rows(LinearScratch& scratch, int count, const void* packed, int64_t first, int64_t end, const Store& store) {
  constexpr int COUNT = tile_panels<W>;
  using X = typename W::X;
  for (; first < end; first += COUNT) {
    const PanelPointers<COUNT> panels(packed, W::panel_bytes(K), first, end);
    tile_of<W, DIRECT_TOKENS, COUNT>(count, panels.of, reinterpret_cast<const X* const*>(scratch.x),
                                     Rows<W>::padded(K), scratch.group_sums, false, scratch.totals);
    finish<W, N, K, COUNT>(panels, first, 0, count, scratch.totals, store);
  }
}

// totals of `count` prepared rows against one tile's panels, a run of k's at a time.
template <class W, int COUNT>
__attribute__((noinline)) void many_rows_tile(LinearScratch& scratch, int count, const uint8_t* const* packed,
                                              int64_t K) {
  using U = typename W::Unpacked;
  using X = typename U::X;
  constexpr bool IN_PLACE = std::is_same<U, W>::value;
  constexpr int64_t GROUP = W::GROUP ? W::GROUP : 1;
  constexpr int64_t K_BYTES = PANEL_ROWS * sizeof(X) * COUNT;
  constexpr int64_t RUN_K = round_up(RUN_BYTES / K_BYTES, 128);  // a multiple of every group
  constexpr int64_t RUN_PANEL_BYTES = (W::GROUP ? RUN_K / GROUP : 0) * (W::HAS_MINIMUM ? 128 : 64) + RUN_K * K_BYTES / COUNT;
  static_assert(IN_PLACE || RUN_PANEL_BYTES * COUNT <= static_cast<int64_t>(sizeof(scratch.run)), "a run fits");

  const int tiles = static_cast<int>(ceil_div(count, TILE_TOKENS));
  for (int64_t k = 0; k < K; k += RUN_K) {
    const int64_t length = K - k < RUN_K ? K - k : RUN_K;
    const uint8_t* panels[COUNT];
    for (int p = 0; p < COUNT; ++p) {
      const uint8_t* codes;
      if constexpr (W::GROUP)
        codes = packed[p] + k / GROUP * W::GROUP_BYTES;
      else
        codes = packed[p] + k / W::STEP_K * W::STEP_BYTES;
      if constexpr (IN_PLACE) {
        panels[p] = codes;
      } else {
        uint8_t* run = scratch.run + p * RUN_PANEL_BYTES;
        unpack<W>(codes, length, run);
        panels[p] = run;
      }
    }
    for (int i = 0; i < tiles; ++i) {
      const int begin = count * i / tiles, end = count * (i + 1) / tiles;
      const X* x[TILE_TOKENS];
      const float* sums[TILE_TOKENS];
      for (int t = begin; t < end; ++t) {
        x[t - begin] = static_cast<const X*>(scratch.x[t]) + k;
        if constexpr (W::HAS_MINIMUM) sums[t - begin] = scratch.group_sums[t] + k / GROUP;
      }
      tile_of<U, TILE_TOKENS, COUNT>(end - begin, panels, x, length, sums, k > 0,
                                     scratch.totals + begin * COUNT * PANEL_ROWS);
    }
  }
}

// Up to BLOCK_TOKENS prepared rows against panels [first, end).
template <class W, int N, int K, class Store>
void many_rows(LinearScratch& scratch, int count, const void* packed, int64_t first, int64_t end, const Store& store) {
  constexpr int COUNT = tile_panels<W>;
  for (; first < end; first += COUNT) {
    const PanelPointers<COUNT> panels(packed, W::panel_bytes(K), first, end);
    many_rows_tile<W, COUNT>(scratch, count, panels.of, Rows<W>::padded(K));
    finish<W, N, K, COUNT>(panels, first, 0, count, scratch.totals, store);
  }
}

// Panels a chunk of work holds: enough chunks to share out evenly, each long enough to stream.
PAGEDC_INLINE int64_t panel_grain(int64_t num_panels, int64_t panel_bytes, int tile, int num_threads) {
  constexpr int64_t CHUNKS_PER_THREAD = 16, STREAM_BYTES = 16 << 10;
  const int64_t even = num_panels / (CHUNKS_PER_THREAD * num_threads), stream = ceil_div(STREAM_BYTES, panel_bytes);
  const int64_t fair = ceil_div(num_panels, num_threads);
  const int64_t grain = even > stream ? even : stream < fair ? stream : fair;
  return round_up(grain > 0 ? grain : 1, tile);
}

// store(t, n, acc, count): acc[0 … count − 1] are out[t, n …]; once per token and panel, on any thread. No barrier.
template <class W, int N, int K, class Store>
void linear(Worker& worker, int64_t T, const typename W::Input* x, int64_t ldx, const void* packed,
            const Store& store) {
  constexpr int64_t NUM_PANELS = ceil_div(N, PANEL_ROWS);
  constexpr int TILE = tile_panels<W>;
  constexpr int MAX_ROWS = Rows<W>::max_rows(K);
  static_assert(MAX_ROWS >= DIRECT_TOKENS, "a row of x is larger than the scratch");
  LinearScratch& scratch = linear_scratch();

  if (T <= DIRECT_TOKENS) {
    const int count = static_cast<int>(T);
    Rows<W>::prepare(scratch, count, K, [&](int i) { return x + i * ldx; });
    const int64_t grain = panel_grain(NUM_PANELS, W::panel_bytes(K), TILE, worker.size);
    worker.parallel_for(NUM_PANELS, grain, [&](int64_t first, int64_t end) {
      few_rows<W, N, K>(scratch, count, packed, first, end, store);
    });
    return;
  }

  // Blocks of tokens × tiles of panels, block by block: a thread prepares a block's rows once.
  constexpr int64_t NUM_TILES = ceil_div(NUM_PANELS, TILE);
  int64_t num_blocks = ceil_div(T, MAX_ROWS);
  while (num_blocks * NUM_TILES < 4 * worker.size && T / num_blocks > 4 * TILE_TOKENS) num_blocks *= 2;
  int64_t prepared = -1;
  worker.parallel_for(num_blocks * NUM_TILES, 1, [&](int64_t task, int64_t) {
    const int64_t block = task / NUM_TILES, begin = T * block / num_blocks, end = T * (block + 1) / num_blocks;
    const int count = static_cast<int>(end - begin);
    if (block != prepared) Rows<W>::prepare(scratch, count, K, [&](int i) { return x + (begin + i) * ldx; });
    prepared = block;
    const int64_t first = task % NUM_TILES * TILE, past = first + TILE < NUM_PANELS ? first + TILE : NUM_PANELS;
    many_rows<W, N, K>(scratch, count, packed, first, past,
                       [&](int64_t row, int n, const float* acc, int valid)
                           __attribute__((always_inline)) { store(begin + row, n, acc, valid); });
  });
}

}  // namespace pagedc
