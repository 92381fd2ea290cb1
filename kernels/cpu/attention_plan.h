// How an attention is cut into register tiles, tiles and splits, and the memory that takes.
#pragma once

#include "attention_kernels.h"
#include "softmax.h"

namespace pagedc {

// What an attention is, as a type, so that every shape is a constant:
//   struct Config {
//     static constexpr int num_heads, num_kv_heads, head_dim, v_head_dim;
//     static constexpr float scale;     // of the scores, > 0
//     static constexpr float softcap;   // scores become softcap * tanh(scores / softcap); 0 = none
//     static constexpr int window;      // the token at position p sees (p - window, p]; 0 = all up to p
//     static constexpr int chunk;       // the token at position p sees [p - p % chunk, p]; 0 = no chunks
//     static constexpr bool has_sinks;  // `sinks` holds a logit per head that takes weight and gives no value
//     static constexpr bool causal;     // must be true
//   };

constexpr int SPLIT_SIZE = 256;
constexpr int BLOCKS_PER_SPLIT = SPLIT_SIZE / BLOCK_SIZE;

template <class Config, class KV>
struct AttentionPlan {
  using Kernels = AttentionKernels<Config, KV>;
  static constexpr int GROUP = Config::num_heads / Config::num_kv_heads;
  static constexpr int V_DIM = KvLayout<Config, KV>::V_DIM;

  // The rows of a chunk: one query's heads, or several queries', with the fewest rows left empty.
  static constexpr int chunk_rows(int rows) {
    if (rows <= MAX_ROWS) return rows;
    int best = MAX_ROWS;
    for (int size = MAX_ROWS; size > MAX_ROWS / 2; --size)
      if (round_up(rows, size) < round_up(rows, best)) best = size;
    return best;
  }
  static constexpr int QUERIES = 32 / GROUP > 0 ? 32 / GROUP : 1;  // of a tile; 32 rows' scores are 34 KB
  static constexpr int DECODE_ROWS = chunk_rows(GROUP);
  static constexpr int PREFILL_ROWS = GROUP < MAX_ROWS ? MAX_ROWS / GROUP * GROUP : DECODE_ROWS;
  static constexpr int TILE_ROWS = static_cast<int>(round_up(round_up(QUERIES * GROUP, PREFILL_ROWS), DECODE_ROWS));
  static constexpr int SCORE_STRIDE = SPLIT_SIZE + 16;  // not a power of two: rows would share cache sets

  // One thread's work space.
  struct alignas(64) Tile {
    float scores[TILE_ROWS * SCORE_STRIDE];
    float split_out[TILE_ROWS * V_DIM];
    float out[TILE_ROWS * V_DIM];
    SoftmaxState split_state[TILE_ROWS];
    SoftmaxState state[TILE_ROWS];
    typename Kernels::Query queries[TILE_ROWS * Kernels::QUERY_STEPS];
  };

  // One query head's result over one split.
  struct alignas(64) Partial {
    float out[V_DIM];
    SoftmaxState state;
  };

  // 256 splits are a context of 65,536 tokens; longer ones are still right, with fewer tasks.
  static constexpr int64_t max_partials(int num_threads) {
    return int64_t{Config::num_heads} * (256 + 16 * num_threads);
  }
};

// Bytes of `scratch`, 64-byte aligned; its contents need not outlive the call.
template <class Config, class KV>
size_t attention_scratch_bytes(int num_threads) {
  using Plan = AttentionPlan<Config, KV>;
  return num_threads * sizeof(typename Plan::Tile) + Plan::max_partials(num_threads) * sizeof(typename Plan::Partial);
}

}  // namespace pagedc
