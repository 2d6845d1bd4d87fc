// The samples of boost.cpp: their masks in the two orders that it reads, and sums of residuals by
// feature. A residual is here a whole number q, |q| <= kLargest.
#pragma once

#include <cstdint>
#include <vector>

#include "isa.h"

namespace spex {

constexpr int32_t kLargest = 8191;

// A q and a count of one share a 32-bit lane, so that one addition sums both, for up to kPackedRows
// samples: kLargest * kPackedRows * 2**kCountBits < 2**31.
constexpr int kCountBits = 9;
constexpr int32_t kPackedRows = (1 << kCountBits) - 1;

// Lanes are kept negative and subtracted: of a masked addition GCC 12 makes three instructions, of
// a masked subtraction one.
inline int32_t lane_of(int32_t q) { return -(q * (kPackedRows + 1) + 1); }
inline int32_t sum_of(int32_t total) { return total >> kCountBits; }
inline int32_t count_of(int32_t total) { return total & kPackedRows; }

class Samples {
 public:
  // masks (rows, ceil(n / 64)), spare bits zero; only the first `samples` of them can be summed.
  Samples(const uint64_t* masks, int64_t samples, int64_t rows, int64_t n, Isa isa, int threads);

  // Bit i is bit `feature` of mask i.
  const uint64_t* column(int64_t feature) const { return columns_.data() + feature * row_words; }

  // histogram (2, 64 words): for each feature the sum of q over the listed samples that have it,
  // and their number. lanes (samples).
  void sum(const int32_t* list, int64_t count, const int32_t* lanes, int32_t* histogram) const;

  const int64_t rows, n, words, row_words;

  using AddLanes = void (*)(const uint64_t* masks, const int32_t* list, int64_t count,
                            const int32_t* lanes, int32_t* sums, int32_t* counts);

 private:
  // Words of masks that lie together, and are summed together.
  struct Chunk {
    int64_t first;  // word
    AddLanes add;
    std::vector<uint64_t> masks;  // (samples, words of the chunk)
  };

  std::vector<Chunk> chunks_;
  std::vector<uint64_t> columns_;  // (64 words, row_words)
};

}  // namespace spex
