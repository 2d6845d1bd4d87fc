// Chase decoding: hard decoding of every flip pattern of the least reliable readings, for both
// signs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "bch.h"

namespace spex {

constexpr int kMaxChase = 16;
constexpr int64_t kDecodeNanoseconds = 800;  // of one pattern with both signs, about, at t = 5
constexpr int kMaxParities = kMaxErrors * kMaxField;
constexpr int kMaxWords = (1 + kMaxParities + 63) / 64 + 4;  // of sign bits, extra delays included

// Signs of k at every delay, as bits: word w of `bits` is the XOR of its features' columns.
inline void delay_bits(const BchCode& code, const int32_t* features, int count, uint64_t* bits) {
  for (int w = 0; w < code.words; ++w) bits[w] = 0;
  for (int i = 0; i < count; ++i)
    for (int w = 0; w < code.words; ++w)
      bits[w] ^= code.columns[int64_t{features[i]} * code.words + w];
}

inline bool bit_at(const uint64_t* bits, int p) { return bits[p / 64] >> (p % 64) & 1; }

// sum_p (-1)^bit_p readings[p]
inline double signed_sum(const uint64_t* bits, const double* readings, int shifts) {
  double sum = 0;
  for (int p = 0; p < shifts; ++p) sum += bit_at(bits, p) ? -readings[p] : readings[p];
  return sum;
}

// Calls visit(features, count) for each pattern that decodes: no flips first, then Gray order, each
// pattern with the sign of reading 0 as measured and reversed. visit returns true to stop.
template <typename Visit>
void chase_decode(const BchCode& code, const double* readings, int flips, const Visit& visit) {
  const int t = code.t;
  flips = std::min(flips, code.parities);
  int32_t syndrome[kMaxErrors] = {}, reversed[kMaxErrors] = {};
  for (int q = 0; q < code.parities; ++q) {
    const bool one = (readings[1 + q] < 0) != (readings[0] < 0);
    int32_t* into = one ? syndrome : reversed;
    for (int j = 0; j < t; ++j) into[j] ^= code.syndromes[q * t + j];
  }

  int weakest[kMaxChase];  // parities, by |reading| then by index
  for (int found = 0; found < flips; ++found) {
    int best = -1;
    for (int q = 0; q < code.parities; ++q) {
      if (std::find(weakest, weakest + found, q) != weakest + found) continue;
      if (best < 0 || std::abs(readings[1 + q]) < std::abs(readings[1 + best])) best = q;
    }
    weakest[found] = best;
  }

  for (uint32_t pattern = 0; pattern < uint32_t{1} << flips; ++pattern) {
    if (pattern) {
      const int q = weakest[__builtin_ctz(pattern)];
      for (int j = 0; j < t; ++j) {
        syndrome[j] ^= code.syndromes[q * t + j];
        reversed[j] ^= code.syndromes[q * t + j];
      }
    }
    for (const int32_t* odd : {syndrome, reversed}) {
      int32_t features[kMaxErrors];
      const int count = bch_locate(code, odd, features);
      if (count >= 0 && visit(features, count)) return;
    }
  }
}

}  // namespace spex
