// The two products of attention over blocks of the KV cache, register-blocked over ROWS queries that share a KV head.
//
// Each score is one accumulator over head_dim in order, each output element one accumulator over the tokens of a split in
// order: ROWS and BLOCKS never show in the bits.
#pragma once

#include "kv_cache.h"

namespace pagedc {

// How many Vec16 the registers hold (32 zmm; 16 ymm, two a Vec16; 16 xmm, four a Vec16), and rows that leave room.
#if defined(PAGEDC_AVX512)
constexpr int NUM_REGISTERS = 32, MAX_ROWS = 8;
#elif defined(PAGEDC_AVX2)
constexpr int NUM_REGISTERS = 8, MAX_ROWS = 4;
#else
constexpr int NUM_REGISTERS = 4, MAX_ROWS = 2;
#endif

// Two elements of a query for paired K, as the product takes them: bf16 where the machine multiplies bf16, like K itself.
#if defined(PAGEDC_AVX512_BF16)
constexpr bool BF16_PRODUCTS = true;
struct QueryPair {
  bf16 x[2];
};
#else
constexpr bool BF16_PRODUCTS = false;
struct QueryPair {
  float x[2];
};
#endif

template <class Config, class KV>
struct AttentionKernels {
  using Layout = KvLayout<Config, KV>;
  using Query = typename std::conditional<Layout::PAIRED, QueryPair, float>::type;
  static constexpr int LINE = 64 / sizeof(KV);  // elements
  static constexpr int QUERY_STEPS = Layout::PAIRED ? Layout::K_DIM / 2 : Layout::K_DIM;
  // What a softmax weight is rounded to; weights lie at the front of their row of scores.
  using Weight = typename std::conditional<Layout::PAIRED && BF16_PRODUCTS, bf16, float>::type;

  // Into the second level: the first one's few outstanding misses hold a core to half of what it can read.
  static PAGEDC_INLINE void prefetch(const KV* p) { __builtin_prefetch(p, 0, 2); }

  // One query's head_dim floats to out[QUERY_STEPS].
  static void pack_query(Query* out, const float* q) {
    if constexpr (Layout::PAIRED && BF16_PRODUCTS) {
      bf16* row = reinterpret_cast<bf16*>(out);
      for (int d = 0; d < Layout::K_DIM; d += 16)
        store_upto(row + d, load_upto(q + d, Config::head_dim - d), Layout::K_DIM - d);
    } else {
      memcpy(out, q, Config::head_dim * sizeof(float));
      if constexpr (Layout::PAIRED && Config::head_dim % 2) out[QUERY_STEPS - 1].x[1] = 0.0f;
    }
  }

  // scores[row * score_stride + 16 * block + token] = q[row] · k[block][token], q packed [ROWS][QUERY_STEPS]. The values
  // of the blocks are asked for on the way: blocks are too short and scattered for the hardware to run ahead of loads.
  template <int ROWS, int BLOCKS>
  static void score(const Query* PAGEDC_RESTRICT q, const KV* const* keys, float* scores, int64_t score_stride) {
    Vec16 sums[ROWS][BLOCKS];
    const KV* k[BLOCKS];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCKS; ++b) k[b] = keys[b];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int b = 0; b < BLOCKS; ++b) sums[r][b] = zero_vec16();
    for (int step = 0; step < QUERY_STEPS; ++step) {
#pragma GCC unroll 8
      for (int b = 0; b < BLOCKS; ++b) prefetch(k[b] + Layout::K_SIZE + step * LINE);
      if constexpr (!Layout::PAIRED) {
        Vec16 x[BLOCKS];
#pragma GCC unroll 8
        for (int b = 0; b < BLOCKS; ++b) x[b] = load(k[b] + step * 16);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
          const Vec16 qr = broadcast(q[r * QUERY_STEPS + step]);
#pragma GCC unroll 8
          for (int b = 0; b < BLOCKS; ++b) sums[r][b] = fma(qr, x[b], sums[r][b]);
        }
      } else {
#if defined(PAGEDC_AVX512_BF16)
        Bf16x32 x[BLOCKS];
#pragma GCC unroll 8
        for (int b = 0; b < BLOCKS; ++b) x[b] = load_pairs(k[b] + step * 32);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
          const Bf16x32 qr = broadcast_pair(q[r * QUERY_STEPS + step].x);
#pragma GCC unroll 8
          for (int b = 0; b < BLOCKS; ++b) sums[r][b] = dot_pairs(x[b], qr, sums[r][b]);
        }
#else
        Vec16 x0[BLOCKS], x1[BLOCKS];
#pragma GCC unroll 8
        for (int b = 0; b < BLOCKS; ++b) {
          const Bf16x32 x = load_pairs(k[b] + step * 32);
          x0[b] = even(x);
          x1[b] = odd(x);
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
          const QueryPair& pair = q[r * QUERY_STEPS + step];
          const Vec16 q0 = broadcast(pair.x[0]), q1 = broadcast(pair.x[1]);
#pragma GCC unroll 8
          for (int b = 0; b < BLOCKS; ++b) sums[r][b] = fma(q1, x1[b], fma(q0, x0[b], sums[r][b]));
        }
#endif
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int b = 0; b < BLOCKS; ++b) store(scores + r * score_stride + b * 16, sums[r][b]);
  }

  // out[row * V_DIM + d] = Σ weights[row * weight_stride + token] v[token][d] for the VECTORS * 16 elements from d on.
  // The keys of the next split are asked for on the way.
  template <int ROWS, int VECTORS>
  static void weigh(const Weight* weights, int64_t weight_stride, const KV* const* keys, const KV* const* next_keys,
                    int num_blocks, int d, float* out) {
    Vec16 sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < VECTORS; ++i) sums[r][i] = zero_vec16();
    for (int block = 0; block < num_blocks; ++block) {
      const KV* v = keys[block] + Layout::K_SIZE + (Layout::PAIRED ? 2 * d : d);
      const KV* next = next_keys[block];
      for (int token = 0; token < BLOCK_SIZE; token += 2, v += 2 * Layout::V_DIM, weights += 2) {
        constexpr int LINES = ceil_div(QUERY_STEPS, BLOCK_SIZE / 2);
        for (int i = 0; i < LINES; ++i, next += LINE) prefetch(next);
        add_two_tokens<ROWS, VECTORS>(sums, weights, weight_stride, v);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < VECTORS; ++i) store(out + r * Layout::V_DIM + d + i * 16, sums[r][i]);
  }

  // A pair of bf16 tokens is one product; rounding a weight to bf16 is what rounds v there already.
  template <int ROWS, int VECTORS>
  static PAGEDC_INLINE void add_two_tokens(Vec16 (&sums)[ROWS][VECTORS], const bf16* weights, int64_t weight_stride,
                                           const KV* v) {
    Bf16x32 x[VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < VECTORS; ++i) x[i] = load_pairs(v + i * 32);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Bf16x32 w = broadcast_pair(weights + r * weight_stride);
#pragma GCC unroll 8
      for (int i = 0; i < VECTORS; ++i) sums[r][i] = dot_pairs(x[i], w, sums[r][i]);
    }
  }

  template <int ROWS, int VECTORS>
  static PAGEDC_INLINE void add_two_tokens(Vec16 (&sums)[ROWS][VECTORS], const float* weights, int64_t weight_stride,
                                           const KV* v) {
    Vec16 x0[VECTORS], x1[VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < VECTORS; ++i) {
      if constexpr (Layout::PAIRED) {
        const Bf16x32 x = load_pairs(v + i * 32);
        x0[i] = even(x);
        x1[i] = odd(x);
      } else {
        x0[i] = load(v + i * 16);
        x1[i] = load(v + Layout::V_DIM + i * 16);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vec16 w0 = broadcast(weights[r * weight_stride]);
#pragma GCC unroll 8
      for (int i = 0; i < VECTORS; ++i) sums[r][i] = fma(w0, x0[i], sums[r][i]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vec16 w1 = broadcast(weights[r * weight_stride + 1]);
#pragma GCC unroll 8
      for (int i = 0; i < VECTORS; ++i) sums[r][i] = fma(w1, x1[i], sums[r][i]);
    }
  }

  // All blocks of a split, the largest register tile first.
  template <int ROWS>
  static void score_all(const Query* q, const KV* const* keys, int num_blocks, float* scores, int64_t score_stride) {
    constexpr int FIT = (NUM_REGISTERS - 2) / (ROWS + 1);  // sums and keys, and a query's element
    constexpr int BLOCKS = FIT >= 8 ? 8 : FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
    int block = 0;
    for (; block + BLOCKS <= num_blocks; block += BLOCKS)
      score<ROWS, BLOCKS>(q, keys + block, scores + block * 16, score_stride);
    for (; block < num_blocks; ++block) score<ROWS, 1>(q, keys + block, scores + block * 16, score_stride);
  }

  template <int ROWS>
  static void weigh_all(const Weight* weights, int64_t weight_stride, const KV* const* keys,
                        const KV* const* next_keys, int num_blocks, float* out) {
    constexpr int FIT = (NUM_REGISTERS - 2) / (ROWS + 1) > 0 ? (NUM_REGISTERS - 2) / (ROWS + 1) : 1;
    constexpr int ALL = Layout::V_DIM / 16;
    constexpr int VECTORS = ceil_div(ALL, ceil_div(ALL, FIT));  // equal passes: 5 are 3 + 2, not 4 + 1
    int d = 0;
    for (; d + VECTORS * 16 <= Layout::V_DIM; d += VECTORS * 16)
      weigh<ROWS, VECTORS>(weights, weight_stride, keys, next_keys, num_blocks, d, out);
    constexpr int REST = ALL % VECTORS;
    if constexpr (REST != 0) weigh<ROWS, REST>(weights, weight_stride, keys, next_keys, num_blocks, d, out);
  }
};

}  // namespace pagedc
