// A linear recurrence: each head of a sequence has a matrix S that decays, takes up an outer product, and is read.
//
//   S_t = decay_t ∘ S_{t-1} + k_t v_tᵀ,  out_t = S_tᵀ q_t
//
// State-space layers, gated linear attention and linear RNNs are this, with decays of different shapes. Under the delta
// rule v_t is replaced by beta_t (v_t - S'ᵀ k_t), S' being the decayed matrix. Token by token, so that an output's bits do
// not depend on how the sequence was cut into steps. A task is a tile of columns of one head, which needs no other column.
#pragma once

#include "abi.h"
#include "simd.h"
#include "team.h"
#include "vector_math.h"

namespace pagedc {

// How many decay factors a head has at a token: one, one a row of S (a key's element), or one a column (a value's).
// EXP_COLUMN: the factor of row i and column j is exp(decay[j] * rate[i][j]).
enum class Decay { HEAD, ROW, COLUMN, EXP_COLUMN };

// Config: num_heads, num_key_heads, key_dim, value_dim, decay, is_delta.
template <class Config>
struct RecurrenceLayout {
  static constexpr int KEY_HEAD = Config::num_heads / Config::num_key_heads;  // heads that share a query and a key
  static constexpr int COLUMNS = static_cast<int>(round_up(Config::value_dim, 16));
  static constexpr int64_t HEAD_SIZE = int64_t{Config::key_dim} * COLUMNS;
  static constexpr int VECTORS = COLUMNS / 16;
  static constexpr int TILE_VECTORS = VECTORS % 4 == 0 ? 4 : VECTORS % 3 == 0 ? 3 : VECTORS % 2 == 0 ? 2 : 1;
  static constexpr int TILES = VECTORS / TILE_VECTORS;  // of a head
  static constexpr int DECAYS = Config::decay == Decay::HEAD  ? 1
                                : Config::decay == Decay::ROW ? Config::key_dim
                                                              : Config::value_dim;
};

template <class Config>
constexpr int64_t linear_recurrence_state_size() {  // floats
  return Config::num_heads * RecurrenceLayout<Config>::HEAD_SIZE;
}

// Rows of one token each, `stride` elements apart; 0 where all tokens have the same.
struct TokenRows {
  const float* data;
  int64_t stride;
  const float* at(int64_t t) const { return data + t * stride; }
};

struct RecurrenceInputs {
  TokenRows q, k;     // [num_key_heads][key_dim]
  TokenRows v;        // [num_heads][value_dim]
  TokenRows decay;    // [num_heads][DECAYS]
  const float* rate;  // [num_heads][key_dim][value_dim], or null
  TokenRows beta;     // [num_heads], or null
};

template <class Config>
class LinearRecurrence {
 public:
  using Layout = RecurrenceLayout<Config>;
  static constexpr int N = Layout::TILE_VECTORS;

  LinearRecurrence(const RecurrenceInputs& in, float* out, int64_t ldo) : in_(in), out_(out), ldo_(ldo) {}

  // Tokens [begin, end) of one sequence, a tile of one head; `state` is the sequence's.
  void run(int begin, int end, bool starts, int head, int tile, float* state) const {
    const int column = tile * N * 16;
    float* const matrix = state + head * Layout::HEAD_SIZE + column;
    if (starts)
      for (int i = 0; i < Config::key_dim; ++i) memset(matrix + i * Layout::COLUMNS, 0, N * 16 * sizeof(float));
    for (int t = begin; t < end; ++t) step(t, head, column, matrix);
  }

 private:
  void step(int t, int head, int column, float* matrix) const {
    const int key_head = head / Layout::KEY_HEAD, lanes = Config::value_dim - column;
    const float* const q = in_.q.at(t) + key_head * Config::key_dim;
    const float* const k = in_.k.at(t) + key_head * Config::key_dim;
    const float* const decay = in_.decay.at(t) + head * Layout::DECAYS;
    const float* const rate =
        Config::decay == Decay::EXP_COLUMN ? in_.rate + int64_t{head} * Config::key_dim * Config::value_dim + column : nullptr;
    Vec16 v[N], factors[N], sums[N];
    for (int n = 0; n < N; ++n) {
      v[n] = load_upto(in_.v.at(t) + head * Config::value_dim + column + n * 16, lanes - n * 16);
      factors[n] = Config::decay == Decay::HEAD  ? broadcast(decay[0])
                   : Config::decay == Decay::ROW ? zero_vec16()
                                                 : load_upto(decay + column + n * 16, lanes - n * 16);
      sums[n] = zero_vec16();
    }
    if constexpr (Config::is_delta) {
      for (int i = 0; i < Config::key_dim; ++i)
        for (int n = 0; n < N; ++n) {
          const Vec16 s = decayed(matrix, i, n, decay, factors, rate, lanes);
          pagedc::store(matrix + i * Layout::COLUMNS + n * 16, s);
          sums[n] = fma(broadcast(k[i]), s, sums[n]);
        }
      const Vec16 beta = broadcast(in_.beta.at(t)[head]);
      for (int n = 0; n < N; ++n) {
        v[n] = (v[n] - sums[n]) * beta;
        sums[n] = zero_vec16();
      }
    }
    for (int i = 0; i < Config::key_dim; ++i)
      for (int n = 0; n < N; ++n) {
        Vec16 s = Config::is_delta ? load(matrix + i * Layout::COLUMNS + n * 16)
                                   : decayed(matrix, i, n, decay, factors, rate, lanes);
        s = fma(broadcast(k[i]), v[n], s);
        pagedc::store(matrix + i * Layout::COLUMNS + n * 16, s);
        sums[n] = fma(broadcast(q[i]), s, sums[n]);
      }
    float* const out = out_ + t * ldo_ + head * Config::value_dim + column;
    for (int n = 0; n < N; ++n) store_upto(out + n * 16, sums[n], lanes - n * 16);
  }

  static PAGEDC_INLINE Vec16 decayed(const float* matrix, int i, int n, const float* decay, const Vec16* factors,
                                     const float* rate, int lanes) {
    Vec16 factor = Config::decay == Decay::ROW ? broadcast(decay[i]) : factors[n];
    if constexpr (Config::decay == Decay::EXP_COLUMN) {
      float powers[16];
      pagedc::store(powers, factor * load_upto(rate + i * Config::value_dim + n * 16, lanes - n * 16));
#pragma omp simd
      for (int lane = 0; lane < 16; ++lane) powers[lane] = math::exp(powers[lane]);
      factor = load(powers);
    }
    return load(matrix + i * Layout::COLUMNS + n * 16) * factor;
  }

  const RecurrenceInputs& in_;
  float* out_;
  const int64_t ldo_;
};

// out [T][num_heads][value_dim] has a row stride in elements; state is [slots][linear_recurrence_state_size]. Rows of out
// that belong to no sequence are not written. Every worker enters; no barrier at the end.
template <class Config>
void linear_recurrence(Worker& worker, const pagedc_batch& batch, const RecurrenceInputs& in, void* state, float* out,
                       int64_t ldo) {
  static_assert(Config::num_heads % Config::num_key_heads == 0, "a key serves a whole group of heads");
  using Layout = RecurrenceLayout<Config>;
  constexpr int64_t TASKS = int64_t{Config::num_heads} * Layout::TILES;  // of a sequence
  const LinearRecurrence<Config> recurrence(in, out, ldo);
  const int64_t count = batch.num_seqs * TASKS, grain = count / (8 * worker.size) + 1;
  worker.parallel_for(count, grain, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t sequence = task / TASKS;
      const int begin = batch.query_start_loc[sequence], end = batch.query_start_loc[sequence + 1];
      if (begin == end) continue;
      const int head = static_cast<int>(task % TASKS / Layout::TILES), tile = static_cast<int>(task % Layout::TILES);
      recurrence.run(begin, end, batch.positions[begin] == 0, head, tile,
                     static_cast<float*>(state) + batch.state_slots[sequence] * linear_recurrence_state_size<Config>());
    }
  });
}

}  // namespace pagedc
