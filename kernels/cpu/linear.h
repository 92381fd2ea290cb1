// out[t, n] = Σ_k x[t, k] · W[n, k], with W packed in panels of 16 output rows (formats.h).
//
// A tile of a few rows of x decodes the packed weights in registers, so at one token they are read once, at the memory's
// speed. Formats that take longer to decode than to multiply are unpacked, for many rows, into the cache. Many rows take
// their turns with a block of panels in the second-level cache: a tile's x stays in the first level while panels stream
// past, in the order they lie (3–10 % faster than a panel past all x). Longer panels are taken in runs of k's. In any case
// each output has the same operations.
//
// W's rows may be packed in STRIPES: 16 of each of so many equal parts in turn. Then a store is given a tile of each part at
// once, as a gate and what it lets through want it.
#pragma once

#include <numeric>
#include <type_traits>

#include "team.h"
#include "tile.h"

namespace pagedc {

// Registers decide the tiles: 32 of 16 floats, 16 of 8, 32 or 16 of 4. With two chains, an output needs two registers, and
// a third for a group's total, which may wait in memory. Tiles that decode have one panel: one stream of memory, which
// the hardware prefetches best; where a panel has one chain and no decoding, three share each x.
template <class Format>
struct Tile {
  static constexpr bool IN_PLACE = std::is_same<typename Format::Unpacked, Format>::value;
#if defined(PAGEDC_AVX512)
  // Of two coded panels, one is decoded while the other's products run, where a product takes two k's.
  static constexpr int TOKENS = 8, PANELS = IS_CODED<Format> ? Format::X_PER_WEIGHT : Format::CHAINS == 1 ? 3 : 1;
  static constexpr int UNPACKED_TOKENS = 4, UNPACKED_PANELS = 2;
  static constexpr int UNPACK_ABOVE = 16;
#else
#if defined(PAGEDC_AVX2) || defined(__aarch64__)
  static constexpr int TOKENS = Format::CHAINS == 1 ? 6 : 3;
  static constexpr int UNPACK_ABOVE = 16;
#else
  static constexpr int TOKENS = Format::CHAINS == 1 ? 2 : 1;
  static constexpr int UNPACK_ABOVE = 2;
#endif
  static constexpr int PANELS = 1;
  static constexpr int UNPACKED_TOKENS = TOKENS, UNPACKED_PANELS = 1;
#endif
  // Of a tile of one token. Coded panels one by one are one long stream, and 1.1 times as fast as two at once.
  static constexpr int ONE_PANELS = IS_CODED<Format> ? 1 : PANELS;
  // Bytes that tiles of several tokens prefetch by: three panels at once reach as far.
  static constexpr int AHEAD = Format::CHAINS == 1 ? 3072 : 6144;
  static constexpr int ROUNDS = 6;           // of chunks that halve, when work is shared out
};

// What the linear of N rows and K columns goes by: Tile, unless a program that has timed others specialises it. None of
// these constants changes the operations of an output, nor their order.
template <class W, int N, int K>
struct Tuned : Tile<W> {};

// Panels that work is shared out by: whole tiles, of either kind where there are two, and whole stripes.
template <class T, int STRIPES>
constexpr int UNIT = std::lcm(std::lcm(T::PANELS, T::IN_PLACE ? 1 : T::UNPACKED_PANELS), STRIPES);
template <class T, int STRIPES>
constexpr int ONE_UNIT = std::lcm(T::ONE_PANELS, STRIPES);  // for one token

constexpr int BLOCK_TOKENS = 128;    // rows of x that use a run of weights while it is near
constexpr int MAX_TOTALS = 6;        // of a row of x: two stripes of three panels, or two sums each of three
// Of panels that stay in the second-level cache for all tiles of a block. Few tiles are as long about it as memory is, and
// the first such block is not asked for in time.
constexpr int NEAR_BYTES = 256 << 10, FEW_TILES = 4, NEAR_BYTES_OF_FEW = 64 << 10;
constexpr int RUN_BYTES = 64 << 10;  // of weights: 16 KiB stay in the first-level cache, but stop and go costs 5 %

// What one thread needs while it is inside a linear.
struct LinearScratch {
  static constexpr int64_t ROWS_BYTES = 1 << 20;
  alignas(64) uint8_t rows[ROWS_BYTES];  // x as the kernel reads it, where that is not as it came; group sums
  alignas(64) uint8_t run[NEAR_BYTES];
  alignas(64) float totals[BLOCK_TOKENS * MAX_TOTALS * PANEL_ROWS];
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

// Panels first … first + COUNT − 1 of a matrix; past the end, the last one again.
template <int COUNT>
struct PanelPointers {
  const uint8_t* of[COUNT];
  const uint8_t* ahead[COUNT];  // what to ask for while reading them
  PanelPointers(const void* packed, int64_t panel_bytes, int64_t first, int64_t end) {
    for (int p = 0; p < COUNT; ++p) {
      of[p] = static_cast<const uint8_t*>(packed) + (first + p < end ? first + p : end - 1) * panel_bytes;
      ahead[p] = of[p];
    }
  }
  void look_ahead(int distance) {
    for (int p = 0; p < COUNT; ++p) ahead[p] = of[p] + distance;
  }
  // The part `tile` of 2^shift of the panels that lie `distance` bytes further on.
  void look_ahead(int64_t distance, int64_t panel_bytes, int tile, int shift) {
    for (int p = 0; p < COUNT; ++p) ahead[p] = of[p] + distance + (tile * panel_bytes >> shift);
  }
};

// totals of `count` prepared rows against PANELS panels, in runs of k's: a run's weights are reused by all rows.
template <class W, class Format, int TOKENS, int PANELS, int AHEAD>
__attribute__((noinline)) void tiles(LinearScratch& scratch, int count, const uint8_t* const* packed, int64_t K,
                                     float* totals) {
  using X = typename W::X;
  constexpr bool IN_PLACE = std::is_same<Format, W>::value;
  constexpr int64_t SPAN_BYTES = Format::offset(SPAN);
  constexpr int64_t RUN_K = (RUN_BYTES > PANELS * SPAN_BYTES ? RUN_BYTES / (PANELS * SPAN_BYTES) : 1) * SPAN;
  static_assert(IN_PLACE || PANELS * RUN_K / SPAN * SPAN_BYTES <= static_cast<int64_t>(sizeof(scratch.run)), "a run");

  const int num_tiles = static_cast<int>(ceil_div(count, TOKENS));
  for (int64_t k = 0; k < K; k += RUN_K) {
    const int64_t length = K - k < RUN_K ? K - k : RUN_K;
    const uint8_t* panels[PANELS];
    const uint8_t* ahead[PANELS];
    for (int p = 0; p < PANELS; ++p) {
      panels[p] = packed[p] + W::offset(k);
      ahead[p] = panels[p] + AHEAD;
      if constexpr (!IN_PLACE) {
        uint8_t* run = scratch.run + p * (RUN_K / SPAN * SPAN_BYTES);
        unpack<W>(panels[p], length, run);
        panels[p] = run;
      }
    }
    for (int i = 0; i < num_tiles; ++i) {
      const int begin = count * i / num_tiles, end = count * (i + 1) / num_tiles;
      const X* x[TOKENS];
      const float* sums[TOKENS];
      for (int t = begin; t < end; ++t) {
        x[t - begin] = static_cast<const X*>(scratch.x[t]) + k;
        if constexpr (W::HAS_MINIMUM) sums[t - begin] = scratch.group_sums[t] + k / W::GROUP;
      }
      float* const out = totals + begin * PANELS * TOTALS<Format> * PANEL_ROWS;
      if (PANELS > 1 && num_tiles > FEW_TILES)
        tile_of<Format, TOKENS, PANELS>(end - begin, panels, x, length, sums, k > 0, NotAhead{}, out);
      else
        tile_of<Format, TOKENS, PANELS>(end - begin, panels, x, length, sums, k > 0, Ahead{ahead, 0}, out);
    }
  }
}

// A tile of totals[count][PANELS][TOTALS][16] as it leaves: scaled, one sum.
template <class W, int K>
PAGEDC_INLINE Vec16 finished(const uint8_t* panel, const float* total) {
  Vec16 sum = load(total);
  if constexpr (TOTALS<W> == 2) sum = sum + load(total + PANEL_ROWS);
  if constexpr (W::HAS_ROW_SCALE) sum = sum * load(reinterpret_cast<const float*>(panel + W::scale_offset(K)));
  return sum;
}

// store(row, n, acc, valid) for `count` rows of the panels from `first`, GROUP of them in tiles of PANELS; n counts the
// rows of one stripe, and stripe j of the tile stands at acc + 16 j.
template <class W, int N, int K, int PANELS, int STRIPES, int GROUP, class Store>
PAGEDC_INLINE void finish(const uint8_t* const* panels, int64_t first, int count, float* totals, const Store& store) {
  constexpr int TILE = BLOCK_TOKENS * PANELS * TOTALS<W> * PANEL_ROWS;
  for (int p = 0; p < GROUP; p += STRIPES) {
    const int n = static_cast<int>(first + p) / STRIPES * PANEL_ROWS, left = N / STRIPES - n;
    if (left <= 0) break;
    const int valid = left < PANEL_ROWS ? left : PANEL_ROWS;
    for (int i = 0; i < count; ++i) {
      alignas(64) float acc[STRIPES * PANEL_ROWS];
#pragma GCC unroll 2
      for (int j = 0; j < STRIPES; ++j) {
        const float* total = totals + (p + j) / PANELS * TILE;
        pagedc::store(acc + j * PANEL_ROWS,
                      finished<W, K>(panels[p + j], total + (i * PANELS + (p + j) % PANELS) * TOTALS<W> * PANEL_ROWS));
      }
      store(i, n, static_cast<const float*>(acc), valid);
    }
  }
}

// Prepared rows, at most BLOCK_TOKENS, against panels [first, end) that are short enough to keep some near.
template <class W, class Format, int N, int K, int TOKENS, int PANELS, int STRIPES, class Store>
PAGEDC_INLINE void rows_by_near_panels(LinearScratch& scratch, int count, const void* packed, int64_t first,
                                       int64_t end, const Store& store) {
  constexpr bool IN_PLACE = std::is_same<Format, W>::value;
  constexpr int64_t PADDED = Rows<W>::padded(K), BYTES = Format::offset(PADDED);
  constexpr int GROUP = std::lcm(PANELS, STRIPES), TILE = BLOCK_TOKENS * PANELS * TOTALS<W> * PANEL_ROWS;
  const int num_tiles = static_cast<int>(ceil_div(count, TOKENS));
  const int64_t near = (num_tiles > FEW_TILES ? NEAR_BYTES : NEAR_BYTES_OF_FEW) / (GROUP * BYTES) * GROUP;
  // The tiles share the work of asking for the next block; where weights are unpacked, an offset is of their larger form.
  int shift = 0;
  while (1 << shift < num_tiles) ++shift;
  int larger = 0;
  while (W::panel_bytes(K) << (larger + 1) <= BYTES) ++larger;
  for (; first < end; first += near) {
    const int64_t past = first + near < end ? first + near : end;
    if constexpr (!IN_PLACE)
      for (int64_t p = first; p < past; ++p)
        unpack<W>(static_cast<const uint8_t*>(packed) + p * W::panel_bytes(K), PADDED, scratch.run + (p - first) * BYTES);
    for (int i = 0; i < num_tiles; ++i) {
      const int begin = count * i / num_tiles, rows = count * (i + 1) / num_tiles - begin;
      const auto* x = reinterpret_cast<const typename W::X* const*>(scratch.x) + begin;
      for (int64_t group = first; group < past; group += GROUP) {
        PanelPointers<GROUP> panels(packed, W::panel_bytes(K), group, end);
        panels.look_ahead(near * W::panel_bytes(K), W::panel_bytes(K), i, shift);
        const PanelPointers<GROUP> unpacked(scratch.run, BYTES, group - first, past - first);
        for (int p = 0; p < GROUP; p += PANELS) {
          const uint8_t* const* of = (IN_PLACE ? panels : unpacked).of + p;
          const float* const* sums = scratch.group_sums + begin;
          float* const totals = scratch.totals + p / PANELS * TILE;
          if (PANELS > 1 && num_tiles > FEW_TILES)
            tile_of<Format, TOKENS, PANELS>(rows, of, x, PADDED, sums, false, NotAhead{}, totals);
          else
            tile_of<Format, TOKENS, PANELS>(rows, of, x, PADDED, sums, false, Ahead{panels.ahead + p, shift + larger},
                                            totals);
        }
        finish<W, N, K, PANELS, STRIPES, GROUP>(
            panels.of, group, rows, scratch.totals,
            [&](int64_t row, int n, const float* acc, int valid)
                __attribute__((always_inline)) { store(begin + row, n, acc, valid); });
      }
    }
  }
}

// Prepared rows, at most BLOCK_TOKENS, against panels [first, end), in tiles of PANELS panels of Format.
template <class W, class Format, int N, int K, int TOKENS, int PANELS, int STRIPES, int AHEAD, class Store>
PAGEDC_INLINE void rows_by_tiles(LinearScratch& scratch, int count, const void* packed, int64_t first, int64_t end,
                                 const Store& store) {
  constexpr int GROUP = std::lcm(PANELS, STRIPES), TILE = BLOCK_TOKENS * PANELS * TOTALS<W> * PANEL_ROWS;
  constexpr bool IN_PLACE = std::is_same<Format, W>::value;
  constexpr int64_t PADDED = Rows<W>::padded(K);
  static_assert(GROUP * TOTALS<W> <= MAX_TOTALS, "room for a group of tiles");
  const bool one_tile = IN_PLACE && count <= TOKENS;
  if constexpr (Format::offset(PADDED) * GROUP <= NEAR_BYTES_OF_FEW) {
    if (!one_tile)
      return rows_by_near_panels<W, Format, N, K, TOKENS, PANELS, STRIPES>(scratch, count, packed, first, end, store);
  }
  for (; first < end; first += GROUP) {
    PanelPointers<GROUP> panels(packed, W::panel_bytes(K), first, end);
    panels.look_ahead(AHEAD);
    for (int p = 0; p < GROUP; p += PANELS) {
      float* totals = scratch.totals + p / PANELS * TILE;
      if (one_tile)
        tile_of<W, TOKENS, PANELS>(count, panels.of + p, reinterpret_cast<const typename W::X* const*>(scratch.x), PADDED,
                                   scratch.group_sums, false, Ahead{panels.ahead + p, 0}, totals);
      else
        tiles<W, Format, TOKENS, PANELS, AHEAD>(scratch, count, panels.of + p, PADDED, totals);
    }
    finish<W, N, K, PANELS, STRIPES, GROUP>(panels.of, first, count, scratch.totals, store);
  }
}

template <class W, int N, int K, int STRIPES, class T, class Store>
void rows_by_panels(LinearScratch& scratch, int count, const void* packed, int64_t first, int64_t end,
                    const Store& store) {
  // Until the hardware's prefetcher has seen where the stream goes.
  for (int line = 0; first < end && line < 32; ++line)
    __builtin_prefetch(static_cast<const uint8_t*>(packed) + first * W::panel_bytes(K) + line * 64);
  if constexpr (!T::IN_PLACE) {
    if (count > T::UNPACK_ABOVE)
      return rows_by_tiles<W, typename W::Unpacked, N, K, T::UNPACKED_TOKENS, T::UNPACKED_PANELS, STRIPES, T::AHEAD>(
          scratch, count, packed, first, end, store);
  }
  if constexpr (T::ONE_PANELS != T::PANELS) {
    constexpr int STEP = ONE_UNIT<T, STRIPES>;
    if (count == 1 && first % STEP == 0 && (end % STEP == 0 || end == ceil_div(N, PANEL_ROWS)))
      return rows_by_tiles<W, W, N, K, 1, T::ONE_PANELS, STRIPES, T::AHEAD>(scratch, count, packed, first, end, store);
  }
  rows_by_tiles<W, W, N, K, T::TOKENS, T::PANELS, STRIPES, T::AHEAD>(scratch, count, packed, first, end, store);
}

// Panels a chunk of work holds: enough chunks to share out evenly, each long enough to stream.
template <class W, int N, int K>
PAGEDC_INLINE int64_t panel_grain(int64_t num_panels, int64_t panel_bytes, int num_threads) {
  constexpr int64_t CHUNKS_PER_THREAD = 16, STREAM_BYTES = 16 << 10;
  const int64_t even = num_panels / (CHUNKS_PER_THREAD * num_threads), stream = ceil_div(STREAM_BYTES, panel_bytes);
  const int64_t fair = ceil_div(num_panels, num_threads);
  const int64_t grain = even > stream ? even : stream < fair ? stream : fair;
  return round_up(grain > 0 ? grain : 1, UNIT<Tuned<W, N, K>, 1>);
}

// [0, count) cut into chunks that halve from round to round, a chunk for each thread in a round: long streams of memory
// first (each start costs the hardware's prefetcher some 300 ns), short ones last to even out.
struct Chunks {
  int64_t count, num_threads;
  int rounds = 1;

  Chunks(int64_t count, int num_threads, int max_rounds) : count(count), num_threads(num_threads) {
    while (rounds < max_rounds && count >= num_threads << rounds) ++rounds;
  }
  int64_t size() const { return rounds * num_threads; }
  int64_t begin(int64_t chunk) const {
    if (chunk == size()) return count;
    const int64_t round = chunk / num_threads, all = int64_t{1} << (rounds - 1), before = all - (all >> round);
    const int64_t share = round + 1 < rounds ? all >> (round + 1) : 1;
    return count * (before * num_threads + share * (chunk % num_threads)) / (all * num_threads);
  }
};

// store(t, n, acc, count): acc[16 j … 16 j + count − 1] are out[t, n …] of stripe j; once per token and n, on any thread. No
// barrier.
template <class W, int N, int K, int STRIPES = 1, class Tiles = Tuned<W, N, K>, class Store>
void linear(Worker& worker, int64_t T, const typename W::Input* x, int64_t ldx, const void* packed,
            const Store& store) {
  constexpr int64_t NUM_PANELS = ceil_div(N, PANEL_ROWS);
  static_assert(STRIPES == 1 || N % (STRIPES * PANEL_ROWS) == 0, "stripes of whole panels");
  LinearScratch& scratch = linear_scratch();
  const int64_t step = T == 1 ? ONE_UNIT<Tiles, STRIPES> : UNIT<Tiles, STRIPES>;
  const Chunks chunks(ceil_div(NUM_PANELS, step), worker.size, Tiles::ROUNDS);
  const int64_t num_chunks = chunks.size();
  int64_t num_blocks = ceil_div(T, Rows<W>::max_rows(K));
  while (num_blocks * num_chunks < 4 * worker.size && T / num_blocks > 4 * Tiles::TOKENS) num_blocks *= 2;

  // Block by block, so that a thread prepares a block's rows once.
  int64_t prepared = -1;
  worker.parallel_for(num_blocks * num_chunks, 1, [&](int64_t task, int64_t) {
    const int64_t block = task / num_chunks, begin = T * block / num_blocks, end = T * (block + 1) / num_blocks;
    const int count = static_cast<int>(end - begin);
    if (block != prepared) Rows<W>::prepare(scratch, count, K, [&](int i) { return x + (begin + i) * ldx; });
    prepared = block;
    const int64_t chunk = task % num_chunks, first = chunks.begin(chunk) * step, past = chunks.begin(chunk + 1) * step;
    rows_by_panels<W, N, K, STRIPES, Tiles>(scratch, count, packed, first, past < NUM_PANELS ? past : NUM_PANELS,
                            [&](int64_t row, int n, const float* acc, int valid)
                                __attribute__((always_inline)) { store(begin + row, n, acc, valid); });
  });
}

}  // namespace pagedc
