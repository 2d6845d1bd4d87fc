// The exact Walsh-Fourier spectrum of a sum of regression trees on mask bits.
#pragma once

#include <cstdint>
#include <memory>

namespace spex {

// Trees as arrays over their nodes, in any order. Following absent (the bit is 0) or present (it is
// 1) from a root reaches a leaf, feature = -1, and no node twice.
struct Forest {
  const int32_t* roots;  // (trees)
  int64_t trees;
  const int32_t* feature;  // (nodes): in [-1, n)
  const int32_t* absent;   // (nodes)
  const int32_t* present;  // (nodes)
  const double* value;     // (nodes): read at leaves, finite
  int64_t n;
};

constexpr int kMaxPathFeatures = 64;                 // distinct features on one path
constexpr int64_t kMaxTreeTerms = int64_t{1} << 24;  // of one tree

// A merged spectrum, ready to be written: as many columns of coefficients as there are groups.
class TreeSpectrum {
 public:
  virtual ~TreeSpectrum() = default;
  virtual int64_t size() const = 0;

  // support (size, ceil(n / 64)) packed, in canonical order: by size of the set, then by its
  // features; coefs (size, groups).
  virtual void write(uint64_t* support, double* coefs, int threads) const = 0;
};

// The terms of all trees merged, the coefficients of tree i added to column group[i] in [0, groups)
// in the order of the trees. A feature asked again on a path is followed to its known side. Terms
// with nothing but zeros are left out, and if limit >= 0 all but the `limit` with the largest sum
// of squares, those first in canonical order on a tie. Throws std::length_error beyond the limits
// above. Same bits for any number of threads.
std::unique_ptr<TreeSpectrum> tree_fourier_cpu(const Forest& forest, const int32_t* group,
                                               int groups, int64_t limit, int threads);

}  // namespace spex
