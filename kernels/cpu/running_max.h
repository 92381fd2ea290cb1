// The largest of what came before, which fades, and what comes: m_t = max(m_{t-1} + fade_t, x_t) of each channel.
//
// Recurrences of exponentials keep their sums relative to it. State of a sequence: m, [CHANNELS].
#pragma once

#include "abi.h"
#include "simd.h"
#include "team.h"

namespace pagedc {

template <int CHANNELS>
constexpr int64_t running_max_state_size() {  // floats
  return round_up(CHANNELS, 16);
}

// fade [T][CHANNELS], or one row with stride 0, x and out [T][CHANNELS] have row strides in elements; state is
// [slots][running_max_state_size]; before position 0, m is `initial`. Every worker enters; no barrier at the end.
template <int CHANNELS>
void running_max(Worker& worker, const pagedc_batch& batch, const float* fade, int64_t ldf, const float* x, int64_t ldx,
                 float initial, void* state, float* out, int64_t ldo) {
  constexpr int64_t VECTORS = ceil_div(CHANNELS, 16);
  worker.parallel_for(batch.num_seqs * VECTORS, 4, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t sequence = task / VECTORS;
      const int c = static_cast<int>(task % VECTORS) * 16, begin = batch.query_start_loc[sequence];
      const int end = batch.query_start_loc[sequence + 1];
      if (begin == end) continue;
      float* const own = static_cast<float*>(state) + batch.state_slots[sequence] * running_max_state_size<CHANNELS>() + c;
      Vec16 m = batch.positions[begin] == 0 ? broadcast(initial) : load(own);
      for (int t = begin; t < end; ++t) {
        m = max(m + load_upto(fade + t * ldf + c, CHANNELS - c), load_upto(x + t * ldx + c, CHANNELS - c));
        store_upto(out + t * ldo + c, m, CHANNELS - c);
      }
      store(own, m);
    }
  });
}

}  // namespace pagedc
