// The KV cache of one layer: [num_blocks][num_kv_heads] of K then V of 16 tokens, laid out for attention's two products.
//
// K stands [head_dim][16 tokens], so that one vector holds the same element of 16 keys and 16 scores grow at once. bf16
// stands in pairs, the operand of VDPBF16PS: K [head_dim / 2][16 tokens][2], V [8 pairs of tokens][v_head_dim][2].
#pragma once

#include <type_traits>

#include "abi.h"
#include "simd.h"
#include "team.h"

namespace pagedc {

constexpr int BLOCK_SIZE = 16;

template <class Config, class KV>
struct KvLayout {
  static constexpr bool PAIRED = std::is_same<KV, bf16>::value;
  static constexpr int K_DIM = PAIRED ? round_up(Config::head_dim, 2) : Config::head_dim;
  static constexpr int V_DIM = round_up(Config::v_head_dim, 16);  // whole vectors; the padding stays as it was created
  static constexpr int64_t K_SIZE = int64_t{K_DIM} * BLOCK_SIZE;
  static constexpr int64_t HEAD_SIZE = K_SIZE + int64_t{V_DIM} * BLOCK_SIZE;
  static constexpr int64_t BLOCK_BYTES = Config::num_kv_heads * HEAD_SIZE * static_cast<int64_t>(sizeof(KV));

  static KV* keys(void* cache, int64_t block, int head) {
    return reinterpret_cast<KV*>(static_cast<char*>(cache) + block * BLOCK_BYTES) + head * HEAD_SIZE;
  }
  static const KV* keys(const void* cache, int64_t block, int head) {
    return keys(const_cast<void*>(cache), block, head);
  }
};

template <class Config, class KV>
constexpr size_t kv_bytes_per_block() {
  return static_cast<size_t>(KvLayout<Config, KV>::BLOCK_BYTES);
}

// One token's k [head_dim] and v [v_head_dim] of one head to `offset` of its block.
template <class Config, class KV>
PAGEDC_INLINE void store_kv_head(const float* k, const float* v, KV* keys, int offset) {
  using Layout = KvLayout<Config, KV>;
  KV* values = keys + Layout::K_SIZE;
  if constexpr (Layout::PAIRED) {
    bf16 row[round_up(Config::head_dim > Config::v_head_dim ? Config::head_dim : Config::v_head_dim, 16)];
    for (int d = 0; d < Config::head_dim; d += 16)
      store(row + d, Config::head_dim - d >= 16 ? load(k + d) : load_first(k + d, Config::head_dim - d));
    for (int pair = 0; pair < Layout::K_DIM / 2; ++pair) memcpy(keys + pair * 32 + offset * 2, row + pair * 2, 4);
    for (int d = 0; d < Config::v_head_dim; d += 16)
      store(row + d, Config::v_head_dim - d >= 16 ? load(v + d) : load_first(v + d, Config::v_head_dim - d));
    bf16* out = values + (offset / 2) * (2 * Layout::V_DIM) + offset % 2;
    for (int d = 0; d < Config::v_head_dim; ++d) out[d * 2] = row[d];
  } else {
    for (int d = 0; d < Config::head_dim; ++d) keys[d * BLOCK_SIZE + offset] = k[d];
    memcpy(values + offset * Layout::V_DIM, v, Config::v_head_dim * sizeof(float));
  }
}

template <int BYTES>
PAGEDC_INLINE void prefetch_bytes(const float* row) {
  for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(row + i / 4);
}

// cache[slot_mapping[t]] = k[t], v[t] for every token with a slot.
template <class Config, class KV>
void store_kv(Worker& worker, const pagedc_batch& batch, const float* k, int64_t ldk, const float* v, int64_t ldv,
              void* cache) {
  // At most a block: its cache lines stay with one core. The few tokens of a decode, each of another block, are shared out.
  const int64_t fair = ceil_div(batch.num_tokens, worker.size), grain = fair < BLOCK_SIZE ? fair : BLOCK_SIZE;
  constexpr int AHEAD = 3;             // tokens: rows lie too far apart for the hardware to see where they go
  constexpr int K_BYTES = Config::num_kv_heads * Config::head_dim * 4, V_BYTES = Config::num_kv_heads * Config::v_head_dim * 4;
  worker.parallel_for(batch.num_tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (t + AHEAD < batch.num_tokens) {
        prefetch_bytes<K_BYTES>(k + (t + AHEAD) * ldk);
        prefetch_bytes<V_BYTES>(v + (t + AHEAD) * ldv);
      }
      const int64_t slot = batch.slot_mapping[t];
      if (slot < 0) continue;
      for (int head = 0; head < Config::num_kv_heads; ++head) {
        KV* keys = KvLayout<Config, KV>::keys(cache, slot / BLOCK_SIZE, head);
        store_kv_head<Config, KV>(k + t * ldk + head * Config::head_dim, v + t * ldv + head * Config::v_head_dim, keys,
                                  static_cast<int>(slot % BLOCK_SIZE));
      }
    }
  });
}

}  // namespace pagedc
