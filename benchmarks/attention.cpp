// Time attention over a cache of many layers, as the layers of a model follow each other: what one layer reads is not in
// cache when the next one starts. Built by benchmarks/attention.py, which defines the shape and the KV type.
//
// usage: attention THREADS NUM_SEQS CONTEXT QUERIES PASSES, prints "microseconds a layer, microseconds to read its KV" of
// each pass, one a line; each sequence has QUERIES new tokens, the last of CONTEXT.
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "attention.h"

namespace {

using namespace pagedc;
using Clock = std::chrono::steady_clock;

struct Config {
  static constexpr int num_heads = NUM_HEADS, num_kv_heads = NUM_KV_HEADS, head_dim = HEAD_DIM, v_head_dim = HEAD_DIM;
  static constexpr int window = 0, chunk = 0;
  static constexpr float scale = 0.125f, softcap = 0;
  static constexpr bool has_sinks = false, causal = true;
};

constexpr int64_t ARENA_BYTES = 192 << 20;

double microseconds(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

void read(Worker& worker, const char* data, int64_t size) {
  worker.parallel_for(size / 4096, 16, [&](int64_t begin, int64_t end) {
    Vec16 sums[4] = {zero_vec16(), zero_vec16(), zero_vec16(), zero_vec16()};
    const float* x = reinterpret_cast<const float*>(data);
    for (int64_t i = begin * 1024; i < end * 1024; i += 64)
      for (int j = 0; j < 4; ++j) sums[j] = sums[j] + load(x + i + 16 * j);
    asm volatile("" ::"m"(sums));
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const int threads = atoi(argv[1]), num_seqs = atoi(argv[2]), context = atoi(argv[3]), queries = atoi(argv[4]);
  const int passes = atoi(argv[5]), blocks = static_cast<int>(ceil_div(context, BLOCK_SIZE)), tokens = num_seqs * queries;
  const int64_t layer_bytes = int64_t{num_seqs} * blocks * kv_bytes_per_block<Config, KV>();
  const int layers = static_cast<int>(ceil_div(ARENA_BYTES, layer_bytes));
  const int64_t width = (Config::num_heads + 2 * Config::num_kv_heads) * Config::head_dim;
  const int64_t out_width = Config::num_heads * Config::head_dim;

  // A sequence's blocks lie scattered, as they do after the cache was used for a while.
  std::vector<int32_t> tables(num_seqs * blocks), positions, query_start_loc = {0};
  for (size_t i = 0; i < tables.size(); ++i) tables[i] = i;
  srand(0);
  for (size_t i = tables.size() - 1; i > 0; --i) std::swap(tables[i], tables[rand() % (i + 1)]);
  std::vector<int64_t> slots;
  for (int s = 0; s < num_seqs; ++s) {
    for (int p = context - queries; p < context; ++p) {
      positions.push_back(p);
      slots.push_back(int64_t{tables[s * blocks + p / BLOCK_SIZE]} * BLOCK_SIZE + p % BLOCK_SIZE);
    }
    query_start_loc.push_back(positions.size());
  }
  pagedc_batch batch = {};
  batch.num_tokens = tokens;
  batch.num_seqs = num_seqs;
  batch.max_blocks = blocks;
  batch.positions = positions.data();
  batch.slot_mapping = slots.data();
  batch.block_tables = tables.data();
  batch.query_start_loc = query_start_loc.data();

  char* cache = static_cast<char*>(aligned_alloc(2 << 20, round_up(layers * layer_bytes, 2 << 20)));
  void* scratch = aligned_alloc(64, round_up(attention_scratch_bytes<Config, KV>(threads), 64));
  if (!cache || !scratch) return 3;
  madvise(cache, layers * layer_bytes, MADV_HUGEPAGE);
  memset(cache, 0x3c, layers * layer_bytes);  // 0.0115 in either type
  std::vector<float> qkv(tokens * width), out(tokens * out_width);
  for (size_t i = 0; i < qkv.size(); ++i) qkv[i] = (i * 2654435761u % 1000) / 500.0f - 1;

  Team team(threads);
  for (int pass = 0; pass <= passes; ++pass) {
    const auto begin = Clock::now();
    team.run([&](Worker& worker) {
      for (int layer = 0; layer < layers; ++layer) {
        const float* k = qkv.data() + out_width;
        const float* v = k + Config::num_kv_heads * Config::head_dim;
        attention<Config, KV>(worker, batch, qkv.data(), width, k, width, v, width, nullptr, cache + layer * layer_bytes,
                              scratch, out.data(), out_width);
        worker.barrier();
      }
    });
    const double attention_time = microseconds(begin);
    const auto read_begin = Clock::now();
    team.run([&](Worker& worker) {
      for (int layer = 0; layer < layers; ++layer) {
        read(worker, cache + layer * layer_bytes, layer_bytes);
        worker.barrier();
      }
    });
    if (pass > 0)  // the first warms up
      printf("%.2f %.2f\n", attention_time / layers, microseconds(read_begin) / layers);
  }
}
