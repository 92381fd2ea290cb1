// Paged attention: the new tokens' k and v go to the cache, then every query attends to its sequence's blocks.
//
// Keys are taken in splits of 256 tokens, aligned to position 0 of the sequence. Within a split a query's operations
// have one order, and its splits are merged in order; so an output's bits depend on the query's position and its keys
// only, not on the batch, on how the prompt was chunked or on the number of threads. A query whose sequence is alone in the batch
// still runs on all threads: its splits are tasks, their results are merged after a barrier.
#pragma once

#include "attention_plan.h"
#include "distance_bias.h"

namespace pagedc {

template <class Config, class KV>
class Attention {
 public:
  using Plan = AttentionPlan<Config, KV>;
  using Kernels = typename Plan::Kernels;
  using Weight = typename Kernels::Weight;
  using Tile = typename Plan::Tile;
  using Partial = typename Plan::Partial;
  static constexpr int GROUP = Plan::GROUP;

  Attention(const pagedc_batch& batch, const float* q, int64_t ldq, const float* sinks, const float* slopes,
            const DistanceBias& biases, const void* cache, void* scratch, Worker& worker)
      : batch_(batch), q_(q), ldq_(ldq), sinks_(sinks), slopes_(slopes), biases_(biases), cache_(cache),
        tile_(static_cast<Tile*>(scratch)[worker.rank]),
        partials_(reinterpret_cast<Partial*>(static_cast<Tile*>(scratch) + worker.size)),
        max_partials_(Plan::max_partials(worker.size)), num_threads_(worker.size) {}

  template <class Out>
  void run(Worker& worker, Out* out, int64_t ldo) {
    int64_t num_tiles = 0, num_split_tasks = 0, num_merges = 0;
    for (Cursor c = first(); c.sequence < batch_.num_seqs; next(c)) {
      num_tiles += c.num_tiles();
      num_split_tasks += c.num_split_tasks();
      num_merges += c.num_merges();
    }
    Cursor tile = first(), split = first(), merge = first();
    worker.parallel_for(num_tiles, 1, [&](int64_t task, int64_t) {
      while (task >= tile.tiles_before + tile.num_tiles()) next(tile);
      run_tile(tile, task - tile.tiles_before, out, ldo);
    });
    if (num_split_tasks == 0) return;
    // A few tasks at a time: the next task's keys are read ahead, so it should be this thread's.
    const int64_t grain = max_int(1, static_cast<int>(num_split_tasks / (8 * worker.size)));
    worker.parallel_for(num_split_tasks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        while (task >= split.split_tasks_before + split.num_split_tasks()) next(split);
        const int64_t next_task = task + 1 < end ? task + 1 : begin + grain * worker.size;
        run_split(split, task - split.split_tasks_before, next_task - split.split_tasks_before);
      }
    });
    worker.barrier();
    worker.parallel_for(num_merges, 4, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        while (task >= merge.merges_before + merge.num_merges()) next(merge);
        run_merge(merge, task - merge.merges_before, out, ldo);
      }
    });
  }

 private:
  // A sequence of the batch and the number of tasks of the sequences before it. Every thread walks the same way.
  struct Cursor {
    int sequence;
    int begin, end;               // its tokens in the batch
    int first_split, num_splits;  // that any of its queries sees
    bool is_split;                // its splits are tasks of their own
    int64_t tiles_before, split_tasks_before, merges_before, partials_before;

    int num_queries() const { return end - begin; }
    int64_t num_tiles() const {
      return is_split ? 0 : ceil_div(num_queries(), Plan::QUERIES) * Config::num_kv_heads;
    }
    int64_t num_split_tasks() const { return is_split ? int64_t{num_splits} * Config::num_kv_heads : 0; }
    int64_t num_merges() const { return is_split ? int64_t{num_queries()} * Config::num_heads : 0; }
    int64_t num_partials() const { return num_merges() * num_splits; }
  };

  Cursor first() const {
    Cursor c = {};
    load(c);
    return c;
  }

  void next(Cursor& c) const {
    c.tiles_before += c.num_tiles();
    c.split_tasks_before += c.num_split_tasks();
    c.merges_before += c.num_merges();
    c.partials_before += c.num_partials();
    ++c.sequence;
    load(c);
  }

  void load(Cursor& c) const {
    if (c.sequence >= batch_.num_seqs) return;
    c.begin = batch_.query_start_loc[c.sequence];
    c.end = batch_.query_start_loc[c.sequence + 1];
    c.is_split = false;
    if (c.begin == c.end) return;
    c.first_split = window_begin(batch_.positions[c.begin]) / SPLIT_SIZE;
    c.num_splits = batch_.positions[c.end - 1] / SPLIT_SIZE + 1 - c.first_split;
    c.is_split = c.num_queries() <= Plan::QUERIES && c.num_splits > 1;
    c.is_split = c.is_split && c.partials_before + c.num_partials() <= max_partials_;
  }

  static int window_begin(int position) {
    if constexpr (Config::chunk > 0) return position - position % Config::chunk;
    return Config::window > 0 && position >= Config::window ? position - Config::window + 1 : 0;
  }

  // A run of queries of one sequence and the KV head whose group attends: row = query * GROUP + head of the group.
  struct Rows {
    int sequence, kv_head;
    int begin, count;  // tokens of the batch
  };

  void pack(const Rows& rows) const {
    const int num_rows = rows.count * GROUP;
    for (int row = 0; row < num_rows; ++row) {
      const float* q = q_ + (rows.begin + row / GROUP) * ldq_ + (rows.kv_head * GROUP + row % GROUP) * Config::head_dim;
      Kernels::pack_query(tile_.queries + row * Kernels::QUERY_STEPS, q);
    }
  }

  // The queries of the tile that begins at `begin`, likely this thread's next: their rows are short and far apart.
  void ask_for_queries(int begin, int kv_head) const {
    for (int token = begin; token < begin + Plan::QUERIES; ++token) {
      const float* q = q_ + token * ldq_ + kv_head * GROUP * Config::head_dim;
      for (int i = 0; i < GROUP * Config::head_dim; i += 16) __builtin_prefetch(q + i, 0, 2);
    }
  }

  // The first block of a split that any query of the rows sees.
  int first_block(const Rows& rows, int split) const {
    return max_int(window_begin(batch_.positions[rows.begin]) / BLOCK_SIZE, split * BLOCKS_PER_SPLIT);
  }

  int last_position(const Rows& rows) const { return batch_.positions[rows.begin + rows.count - 1]; }

  // The blocks of a split that any query of the rows sees; returns their number.
  int split_keys(const Rows& rows, int split, const KV** keys) const {
    const int begin = first_block(rows, split);
    const int end = min_int(last_position(rows) / BLOCK_SIZE + 1, (split + 1) * BLOCKS_PER_SPLIT);
    const int32_t* table = batch_.block_tables + int64_t{rows.sequence} * batch_.max_blocks;
    for (int block = begin; block < end; ++block)
      keys[block - begin] = KvLayout<Config, KV>::keys(cache_, table[block], rows.kv_head);
    return end - begin;
  }

  // out [][V_DIM] and state of every row of the tile. This thread is likely to go on with next_split of next_head.
  template <int ROWS>
  void attend(const Rows& rows, int split, int next_head, int next_split, float* out, SoftmaxState* state) const {
    const KV* keys[BLOCKS_PER_SPLIT];
    const KV* next_keys[BLOCKS_PER_SPLIT];
    const int num_blocks = split_keys(rows, split, keys);
    const Rows next_rows = {rows.sequence, next_head, rows.begin, rows.count};
    const bool has_next = next_split <= last_position(rows) / SPLIT_SIZE;
    const int num_next = has_next ? split_keys(next_rows, next_split, next_keys) : 0;
    for (int b = num_next; b < num_blocks; ++b) next_keys[b] = keys[b];
    const int begin = first_block(rows, split) * BLOCK_SIZE;  // position of the first score

    const int num_rows = rows.count * GROUP, num_chunks = static_cast<int>(ceil_div(num_rows, ROWS));
    for (int chunk = 0; chunk < num_chunks; ++chunk)
      Kernels::template score_all<ROWS>(tile_.queries + chunk * ROWS * Kernels::QUERY_STEPS, keys, num_blocks,
                                        tile_.scores + chunk * ROWS * Plan::SCORE_STRIDE, Plan::SCORE_STRIDE);
    for (int row = 0; row < num_rows; ++row) {
      const int position = batch_.positions[rows.begin + row / GROUP];
      const float slope = slopes_ ? slopes_[rows.kv_head * GROUP + row % GROUP] : 0.0f;
      const int visible_begin = max_int(window_begin(position) - begin, 0);
      const int visible_end = min_int(position + 1 - begin, num_blocks * BLOCK_SIZE);
      if (biases_.x)
        biases_.add(tile_.scores + row * Plan::SCORE_STRIDE, rows.begin + row / GROUP,
                    rows.kv_head * GROUP + row % GROUP, visible_begin, visible_end, position - begin);
      state[row] = softmax_split<Config, Weight>(tile_.scores + row * Plan::SCORE_STRIDE, num_blocks * BLOCK_SIZE,
                                                     visible_begin, visible_end, slope, position - begin);
    }
    for (int chunk = 0; chunk < num_chunks; ++chunk)
      Kernels::template weigh_all<ROWS>(
          reinterpret_cast<const Weight*>(tile_.scores + chunk * ROWS * Plan::SCORE_STRIDE),
          Plan::SCORE_STRIDE * (sizeof(float) / sizeof(Weight)), keys, next_keys, num_blocks,
          out + chunk * ROWS * Plan::V_DIM);
  }

  template <class Out>
  void run_tile(const Cursor& c, int64_t task, Out* out, int64_t ldo) const {
    // The last tiles have the most keys and go first; a head's tiles follow each other, for its keys are then in cache.
    const int num_tiles = static_cast<int>(ceil_div(c.num_queries(), Plan::QUERIES));
    const int tile = num_tiles - 1 - static_cast<int>(task % num_tiles);
    Rows rows = {c.sequence, static_cast<int>(task / num_tiles), c.begin + tile * Plan::QUERIES, 0};
    rows.count = min_int(Plan::QUERIES, c.end - rows.begin);
    if (tile >= num_threads_) ask_for_queries(rows.begin - num_threads_ * Plan::QUERIES, rows.kv_head);
    if (rows.count == 1)
      run_tile_rows<Plan::DECODE_ROWS>(rows, out, ldo);
    else
      run_tile_rows<Plan::PREFILL_ROWS>(rows, out, ldo);
  }

  template <int ROWS, class Out>
  void run_tile_rows(const Rows& rows, Out* out, int64_t ldo) const {
    const int num_rows = rows.count * GROUP;
    pack(rows);
    const int first_split = window_begin(batch_.positions[rows.begin]) / SPLIT_SIZE;
    const int end_split = last_position(rows) / SPLIT_SIZE + 1;
    attend<ROWS>(rows, first_split, rows.kv_head, first_split + 1, tile_.out, tile_.state);
    for (int split = first_split + 1; split < end_split; ++split) {
      attend<ROWS>(rows, split, rows.kv_head, split + 1, tile_.split_out, tile_.split_state);
      for (int row = 0; row < num_rows; ++row)
        merge_softmax<Plan::V_DIM>(tile_.state[row], tile_.out + row * Plan::V_DIM, tile_.split_state[row],
                                   tile_.split_out + row * Plan::V_DIM);
    }
    for (int row = 0; row < num_rows; ++row)
      finish(tile_.state[row], tile_.out + row * Plan::V_DIM, rows.begin + row / GROUP,
             rows.kv_head * GROUP + row % GROUP, out, ldo);
  }

  void run_split(const Cursor& c, int64_t task, int64_t next_task) const {
    const Rows rows = {c.sequence, static_cast<int>(task % Config::num_kv_heads), c.begin, c.num_queries()};
    const int split = static_cast<int>(task / Config::num_kv_heads);
    const int next_head = static_cast<int>(next_task % Config::num_kv_heads);
    const int next_split = c.first_split + static_cast<int>(next_task / Config::num_kv_heads);
    pack(rows);
    if (rows.count == 1)
      attend<Plan::DECODE_ROWS>(rows, c.first_split + split, next_head, next_split, tile_.split_out, tile_.split_state);
    else
      attend<Plan::PREFILL_ROWS>(rows, c.first_split + split, next_head, next_split, tile_.split_out, tile_.split_state);
    for (int row = 0; row < rows.count * GROUP; ++row) {
      Partial& partial = partials(c, row / GROUP, rows.kv_head * GROUP + row % GROUP)[split];
      memcpy(partial.out, tile_.split_out + row * Plan::V_DIM, sizeof partial.out);
      partial.state = tile_.split_state[row];
    }
  }

  template <class Out>
  void run_merge(const Cursor& c, int64_t task, Out* out, int64_t ldo) const {
    const int query = static_cast<int>(task / Config::num_heads), head = static_cast<int>(task % Config::num_heads);
    const Partial* partial = partials(c, query, head);
    SoftmaxState state = {-INFINITY, 0.0f};
    alignas(64) float sum[Plan::V_DIM] = {};
    for (int split = 0; split < c.num_splits; ++split)
      merge_softmax<Plan::V_DIM>(state, sum, partial[split].state, partial[split].out);
    finish(state, sum, c.begin + query, head, out, ldo);
  }

  Partial* partials(const Cursor& c, int query, int head) const {
    return partials_ + c.partials_before + (int64_t{query} * Config::num_heads + head) * c.num_splits;
  }

  template <class Out>
  void finish(SoftmaxState state, const float* sum, int token, int head, Out* out, int64_t ldo) const {
    float scale = 1.0f / state.sum;
    if constexpr (Config::has_sinks) {
      const float sink = sinks_[head], maximum = sink > state.maximum ? sink : state.maximum;
      const float keep = math::exp(state.maximum - maximum);
      scale = keep / math::mul_add(state.sum, keep, math::exp(sink - maximum));
    }
    const Vec16 scales = broadcast(scale);
    Out* row = out + token * ldo + head * Config::v_head_dim;
    for (int d = 0; d < Config::v_head_dim; d += 16) {
      const Vec16 x = pagedc::load(sum + d) * scales;
      if (Config::v_head_dim - d >= 16)
        store(row + d, x);
      else
        store_first(row + d, x, Config::v_head_dim - d);
    }
  }

  static int min_int(int a, int b) { return a < b ? a : b; }
  static int max_int(int a, int b) { return a > b ? a : b; }

  const pagedc_batch& batch_;
  const float* q_;
  const int64_t ldq_;
  const float* sinks_;
  const float* slopes_;
  const DistanceBias biases_;
  const void* cache_;
  Tile& tile_;
  Partial* partials_;
  const int64_t max_partials_;
  const int num_threads_;
};

// out[t][head] = Σ softmax(scale (q[t][head] · k + bias)) v over the positions that token t sees.
//
// q [T][num_heads][head_dim], k [T][num_kv_heads][head_dim], v [T][num_kv_heads][v_head_dim] and out
// [T][num_heads][v_head_dim] have row strides in elements; sinks and ALiBi slopes are [num_heads] or null. A sequence's
// tokens have consecutive positions and its block table covers them. All cached values must be finite, those of free slots
// too. Rows of out that belong to no sequence are not written. Every worker enters; no barrier at the end.
template <class Config, class KV, class Out>
void attention(Worker& worker, const pagedc_batch& batch, const float* q, int64_t ldq, const float* k, int64_t ldk,
               const float* v, int64_t ldv, const float* sinks, void* kv_cache_of_this_layer, void* scratch, Out* out,
               int64_t ldo, const float* alibi_slopes = nullptr, const DistanceBias& biases = {}) {
  static_assert(Config::causal, "attention to later tokens is not implemented");
  static_assert(Config::num_heads % Config::num_kv_heads == 0, "a KV head serves a whole group of query heads");
  store_kv<Config, KV>(worker, batch, k, ldk, v, ldv, kv_cache_of_this_layer);
  worker.barrier();
  Attention<Config, KV> attention(batch, q, ldq, sinks, alibi_slopes, biases, kv_cache_of_this_layer, scratch, worker);
  attention.run(worker, out, ldo);
}

}  // namespace pagedc
