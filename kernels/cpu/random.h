// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): a number that is a function
// of a key and a counter alone, so that a token's draw does not depend on what else was drawn.
#pragma once

#include "common.h"

namespace pagedc {

struct Philox {
  uint32_t words[4];
};

inline Philox philox(Philox counter, uint32_t key0, uint32_t key1) {
  uint32_t* x = counter.words;
  for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
    const uint64_t a = uint64_t{0xD2511F53u} * x[0], b = uint64_t{0xCD9E8D57u} * x[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(a)}};
  }
  return counter;
}

// Uniform in [0, 1), 53 bits.
inline double uniform(uint64_t seed, uint64_t counter) {
  const Philox out = philox({{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}},
                            static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return static_cast<double>((uint64_t{out.words[1]} << 32 | out.words[0]) >> 11) * 0x1p-53;
}

}  // namespace pagedc
