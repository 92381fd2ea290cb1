// Rows of a packed table, dequantised exactly.
#pragma once

#include "formats.h"

namespace pagedc {

// out[t][0 … K) = W[ids[t]][…] for t in [T_begin, T_end); every id is in [0, N).
template <class W, int N, int K>
void embedding(int64_t T_begin, int64_t T_end, const int32_t* ids, const void* packed, float* out, int64_t ldo) {
  constexpr int64_t PANEL_BYTES = W::panel_bytes(K);
  for (int64_t t = T_begin; t < T_end; ++t) {
    const uint8_t* panel = static_cast<const uint8_t*>(packed) + ids[t] / PANEL_ROWS * PANEL_BYTES;
    const int row = ids[t] % PANEL_ROWS;
    for (int64_t k = 0; k < K; ++k) out[t * ldo + k] = W::value(panel, K, row, k);
  }
}

}  // namespace pagedc
