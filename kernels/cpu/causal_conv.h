// A convolution along a sequence, channel by channel: each token sees itself and the TAPS - 1 inputs before it.
//
// State of a sequence: those inputs, [TAPS - 1][CHANNELS], the oldest first. Every output is the same sum of the same
// terms however the sequence was cut into steps.
#pragma once

#include "abi.h"
#include "simd.h"
#include "team.h"

namespace pagedc {

template <int CHANNELS, int TAPS>
constexpr int64_t causal_conv_state_size() {  // floats; whole cache lines
  return round_up(int64_t{TAPS - 1} * CHANNELS, 16);
}

template <int CHANNELS, int TAPS>
class CausalConv {
 public:
  static constexpr int TILE = 64;  // channels of one task
  static constexpr int64_t TILES = ceil_div(CHANNELS, TILE);

  CausalConv(const float* x, int64_t ldx, const float* weight, float* out, int64_t ldo)
      : x_(x), ldx_(ldx), weight_(weight), out_(out), ldo_(ldo) {}

  // Tokens [begin, end) of one sequence, channels [c0, c0 + TILE); `state` is the sequence's.
  void run(int begin, int end, bool starts, int c0, float* state) const {
    const int count = CHANNELS - c0 < TILE ? CHANNELS - c0 : TILE;
    const float zeros[TILE] = {};
    const float* taps[TAPS];
    for (int t = begin; t < end; ++t) {
      for (int j = 0; j < TAPS; ++j) taps[j] = input(t + j - (TAPS - 1), begin, starts, c0, state, zeros);
      float* const row = out_ + t * ldo_ + c0;
      for (int c = 0; c < count; c += 16) {
        const int lanes = count - c;
        Vec16 sum = zero_vec16();
        for (int j = 0; j < TAPS; ++j)
          sum = fma(load_upto(taps[j] + c, lanes), load_upto(weight_ + j * CHANNELS + c0 + c, lanes), sum);
        store_upto(row + c, sum, lanes);
      }
    }
    for (int j = 0; j < TAPS - 1; ++j)  // upwards: a row moves to one that was read before it
      memmove(state + j * CHANNELS + c0, input(end + j - (TAPS - 1), begin, starts, c0, state, zeros),
              count * sizeof(float));
  }

 private:
  // The input of token `t`, which may lie before those of this step.
  const float* input(int t, int begin, bool starts, int c0, const float* state, const float* zeros) const {
    if (t >= begin) return x_ + t * ldx_ + c0;
    return starts ? zeros : state + (TAPS - 1 + t - begin) * CHANNELS + c0;
  }

  const float* x_;
  const int64_t ldx_;
  const float* weight_;
  float* out_;
  const int64_t ldo_;
};

// out[t][c] = Σ_j weight[j][c] x[t - (TAPS - 1) + j][c], x being 0 before position 0.
//
// x and out [T][CHANNELS] have row strides in elements; weight is [TAPS][CHANNELS]; state is
// [slots][causal_conv_state_size]. Rows of out that belong to no sequence are not written. Every worker enters; no barrier
// at the end.
template <int CHANNELS, int TAPS>
void causal_conv(Worker& worker, const pagedc_batch& batch, const float* x, int64_t ldx, const float* weight,
                 void* state, float* out, int64_t ldo) {
  using Conv = CausalConv<CHANNELS, TAPS>;
  const Conv conv(x, ldx, weight, out, ldo);
  worker.parallel_for(batch.num_seqs * Conv::TILES, 1, [&](int64_t task, int64_t) {
    const int64_t sequence = task / Conv::TILES;
    const int begin = batch.query_start_loc[sequence], end = batch.query_start_loc[sequence + 1];
    if (begin == end) return;
    float* const own = static_cast<float*>(state) + batch.state_slots[sequence] * causal_conv_state_size<CHANNELS, TAPS>();
    conv.run(begin, end, batch.positions[begin] == 0, static_cast<int>(task % Conv::TILES) * Conv::TILE, own);
  });
}

}  // namespace pagedc
