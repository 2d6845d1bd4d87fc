// Sums over the terms that contain a set: every interaction index of a Fourier spectrum.
#pragma once

#include <cstdint>
#include <vector>

namespace spex {

struct WeightedTerms {
  const uint64_t* support;  // (terms, words): packed sets k, in any order
  const double* coefs;      // (terms)
  int64_t terms, words;
  const double* weights;  // (order, columns): row s - 1, column d weighs a set of s in a k of d
  int order;              // at least 1
  int64_t columns;        // terms of so many features and more count nothing
};

constexpr int64_t kMaxSubsets = int64_t{1} << 31;

// sum over k >= s of weights[|s| - 1, |k|] coefs[k] for every set s of 1 to `order` features that
// lies in a term of nonzero weight: those that are not 0, of largest magnitude first; of equals the
// smaller set, then the one with the lower features. A sum has the order of its terms.
class SupersetSums {
 public:
  // Throws std::length_error where there are kMaxSubsets subsets or more, each counted in every
  // term it lies in.
  explicit SupersetSums(const WeightedTerms& terms);

  int64_t size() const { return static_cast<int64_t>(order_.size()); }

  // sets (size, order): features ascending, then -1; sums (size).
  void write(int32_t* sets, double* sums) const;

 private:
  std::vector<std::vector<int32_t>> sets_;  // of each size, one after the other, as they ascend
  std::vector<double> sums_;                // of the sets of one feature, then of two, ...
  std::vector<uint32_t> order_;             // the largest sums_ first
};

}  // namespace spex
