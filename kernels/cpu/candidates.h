// Tokens that may be chosen, and the selection of those that rank first.
#pragma once

#include <algorithm>

#include "common.h"

namespace pagedc {

struct Candidate {
  float logit;
  float weight;  // e^((logit - maximum) / temperature)
  int32_t id;
};

PAGEDC_INLINE bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Reorders so that the first n, returned, are the fewest that rank first and weigh `target` together. Expected O(count).
inline int keep_mass(Candidate* candidates, int count, double target) {
  int begin = 0, end = count;  // those before begin are kept, those from end on are not
  double kept = 0;
  while (end - begin > 16) {
    Candidate pivots[3] = {candidates[begin], candidates[begin + (end - begin) / 2], candidates[end - 1]};
    std::sort(pivots, pivots + 3, ranks_before);
    const Candidate pivot = pivots[1];
    const Candidate* split = std::partition(candidates + begin, candidates + end,
                                            [&](const Candidate& c) { return !ranks_before(pivot, c); });
    const int middle = static_cast<int>(split - candidates);
    double mass = 0;
    for (int i = begin; i < middle; ++i) mass += candidates[i].weight;
    if (kept + mass >= target) {
      end = middle;
    } else {
      kept += mass;
      begin = middle;
    }
  }
  std::sort(candidates + begin, candidates + end, ranks_before);
  while (begin < end && kept < target) kept += candidates[begin++].weight;
  return begin;
}

}  // namespace pagedc
