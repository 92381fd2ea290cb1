// The linear of a mixture of experts: each (token, slot) row goes through its own expert's matrix.
//
// Rows are bucketed by expert with a counting sort, so that an expert's weights are read once for all of its rows. Every
// thread sorts for itself: thousands of rows take microseconds, a barrier would not be cheaper.
#pragma once

#include "linear.h"

namespace pagedc {

// Bytes of `scratch` below.
constexpr int64_t grouped_linear_scratch_bytes(int num_experts, int top_k, int num_threads, int64_t max_num_tokens) {
  return num_threads * round_up((num_experts + 1 + max_num_tokens * top_k) * 4, 64);
}

// Rows sorted by expert: the rows of expert e are order[start[e]] … order[start[e + 1] − 1], ascending.
struct ExpertRows {
  const int32_t* start;
  const int32_t* order;

  ExpertRows(int num_experts, int64_t num_rows, const int32_t* expert_ids, int32_t* scratch) {
    int32_t* ends = scratch;
    int32_t* rows = scratch + num_experts + 1;
    memset(ends, 0, (num_experts + 1) * 4);
    for (int64_t i = 0; i < num_rows; ++i) ++ends[expert_ids[i] + 1];
    for (int e = 0; e < num_experts; ++e) ends[e + 1] += ends[e];
    // ends[e] is where expert e starts; placing its rows moves it to where e + 1 starts.
    for (int64_t i = 0; i < num_rows; ++i) rows[ends[expert_ids[i]]++] = static_cast<int32_t>(i);
    memmove(ends + 1, ends, num_experts * 4);
    ends[0] = 0;
    start = ends;
    order = rows;
  }
};

// out[t · top_k + slot] = W[expert_ids[t, slot]] · x[t · ldx + slot · ldx_slot …]; ldx_slot = 0: a token's slots share x.
// packed: E matrices of N × K one after the other. store(t · top_k + slot, n, acc, count) as in linear. No barrier.
template <class W, int E, int N, int K, class Store>
void grouped_linear(Worker& worker, int64_t T, int top_k, const int32_t* expert_ids, const typename W::Input* x,
                    int64_t ldx, int64_t ldx_slot, const void* packed, void* scratch_in, const Store& store) {
  constexpr int64_t NUM_PANELS = ceil_div(N, PANEL_ROWS);
  constexpr int MAX_ROWS = Rows<W>::max_rows(K);
  constexpr int64_t MATRIX_BYTES = NUM_PANELS * W::panel_bytes(K);
  LinearScratch& scratch = linear_scratch();

  const int64_t num_rows = T * top_k;
  const int64_t own_ints = grouped_linear_scratch_bytes(E, 1, 1, num_rows) / 4;
  const ExpertRows rows(E, num_rows, expert_ids, static_cast<int32_t*>(scratch_in) + worker.rank * own_ints);

  int num_active = 0;
  for (int e = 0; e < E; ++e) num_active += rows.start[e + 1] > rows.start[e];
  // Panels per task: all experts of a decode step together are one stream of panels.
  const int64_t grain = panel_grain<W, N, K>(NUM_PANELS * num_active, W::panel_bytes(K), worker.size);
  const int64_t tasks_per_block = ceil_div(NUM_PANELS, grain);
  const auto blocks_of = [&](int e) { return ceil_div(rows.start[e + 1] - rows.start[e], MAX_ROWS); };
  int64_t num_tasks = 0;
  for (int e = 0; e < E; ++e) num_tasks += blocks_of(e) * tasks_per_block;

  // Tasks come to a thread in ascending order, so it walks the experts once.
  int expert = 0;
  int64_t expert_tasks = 0, prepared = -1;
  worker.parallel_for(num_tasks, 1, [&](int64_t task, int64_t) {
    while (task >= expert_tasks + blocks_of(expert) * tasks_per_block) {
      expert_tasks += blocks_of(expert) * tasks_per_block;
      ++expert;
      prepared = -1;
    }
    const int64_t block = (task - expert_tasks) / tasks_per_block, part = (task - expert_tasks) % tasks_per_block;
    const int64_t num_own = rows.start[expert + 1] - rows.start[expert], num_blocks = blocks_of(expert);
    const int64_t begin = num_own * block / num_blocks, end = num_own * (block + 1) / num_blocks;
    const int32_t* order = rows.order + rows.start[expert] + begin;
    const int count = static_cast<int>(end - begin);
    if (block != prepared)
      Rows<W>::prepare(scratch, count, K,
                       [&](int i) { return x + order[i] / top_k * ldx + order[i] % top_k * ldx_slot; });
    prepared = block;

    const uint8_t* matrix = static_cast<const uint8_t*>(packed) + expert * MATRIX_BYTES;
    const int64_t first = part * grain, past = first + grain < NUM_PANELS ? first + grain : NUM_PANELS;
    rows_by_panels<W, N, K, 1, Tuned<W, N, K>>(scratch, count, matrix, first, past,
                            [&](int64_t row, int n, const float* acc, int valid) __attribute__((always_inline)) {
                              store(static_cast<int64_t>(order[row]), n, acc, valid);
                            });
  });
}

}  // namespace pagedc
