// Gradient-boosted regression trees on packed masks, squared loss, grown leaf by leaf.
#pragma once

#include <cstdint>
#include <vector>

#include "isa.h"

namespace spex {

// One fit.
struct BoostSettings {
  int trees, depth, leaves;         // at most; a single leaf has depth 0
  int32_t min_leaf;                 // fitted samples in a leaf, at least
  double rate, l2;                  // a leaf's value is rate (sum of residuals) / (samples + l2)
  double row_share, feature_share;  // drawn anew for each tree, without replacement
};

// The trees of one fit, nodes in the order they were made; a leaf has feature, absent and present
// -1.
struct BoostedTrees {
  std::vector<int32_t> roots, feature, absent, present;
  std::vector<double> value;
  double bias = 0.0;  // the mean of the fitted values
};

// What all fits of a call share.
struct BoostProblem {
  const uint64_t* masks;  // (rows, ceil(n / 64)), spare bits zero
  int64_t samples;        // at most 2**24: the first rows, which have values
  int64_t rows, n;
  const int32_t* stages;  // (num_stages), ascending numbers of trees
  int64_t num_stages;
  uint64_t seed;
};

// Fits settings.size() forests; fit j sees the samples whose bit is set in bags[j], a bit array of
// ceil(rows / 64) words with spare bits zero, and values[j] (samples), read there only.
// staged (fits, num_stages, rows): the predictions for all rows after that many trees.
//
// ARCHITECTURE.md, "Boosting on bits", has the arithmetic: sums are exact, so nothing depends on
// the number of threads, which share out the fits, or on the instruction set.
std::vector<BoostedTrees> boost_cpu(const BoostProblem& problem,
                                    const std::vector<BoostSettings>& settings,
                                    const std::vector<const double*>& values,
                                    const std::vector<const uint64_t*>& bags, double* staged,
                                    Isa isa, int threads);

}  // namespace spex
