// Chase decoding: hard decoding of every flip pattern of the least reliable readings, for both
// signs.
#pragma once

#include <cmath>
#include <cstdint>

#include "bch.h"

namespace spex {

constexpr int kMaxChase = 16;
constexpr int64_t kDecodeNanoseconds = 800;  // of one pattern with both signs, about, at t = 5
constexpr int kMaxParities = kMaxErrors * kMaxField;
constexpr int kMaxWords = (1 + kMaxParities + 63) / 64 + 4;  // of sign bits, extra delays included

// Signs of k at every delay, as bits: word w of `bits` is the XOR of its features' columns.
SPEX_HOST_DEVICE inline void delay_bits(const BchCode& code, const int32_t* features, int count,
                                        uint64_t* bits) {
  for (int w = 0; w < code.words; ++w) bits[w] = 0;
  for (int i = 0; i < count; ++i)
    for (int w = 0; w < code.words; ++w)
      bits[w] ^= code.columns[int64_t{features[i]} * code.words + w];
}

SPEX_HOST_DEVICE inline bool bit_at(const uint64_t* bits, int p) {
  return bits[p / 64] >> (p % 64) & 1;
}

// sum_p (-1)^bit_p readings[p]
template <typename Readings>
SPEX_HOST_DEVICE inline double signed_sum(const uint64_t* bits, const Readings& readings,
                                          int shifts) {
  double sum = 0;
  for (int p = 0; p < shifts; ++p) sum += bit_at(bits, p) ? -readings[p] : readings[p];
  return sum;
}

// What a row of readings says of its parities.
struct ChaseRow {
  int32_t syndrome[kMaxErrors];  // by the sign of reading 0 as measured
  int32_t reversed[kMaxErrors];  // and by the other
  int weakest[kMaxChase];        // parities, by |reading| then by index
};

// Fills `row` with no parity flipped; `flips`, at most kMaxChase and the parities, of the weakest
// are named.
template <typename Readings>
SPEX_HOST_DEVICE inline void chase_begin(const BchCode& code, const Readings& readings, int flips,
                                         ChaseRow& row) {
  const int t = code.t;
  for (int j = 0; j < t; ++j) row.syndrome[j] = row.reversed[j] = 0;
  for (int q = 0; q < code.parities; ++q) {
    const bool one = (readings[1 + q] < 0) != (readings[0] < 0);
    int32_t* into = one ? row.syndrome : row.reversed;
    for (int j = 0; j < t; ++j) into[j] ^= code.syndromes[q * t + j];
  }
  for (int found = 0; found < flips; ++found) {
    int best = -1;
    for (int q = 0; q < code.parities; ++q) {
      bool taken = false;
      for (int i = 0; i < found; ++i) taken = taken || row.weakest[i] == q;
      if (taken) continue;
      if (best < 0 || fabs(readings[1 + q]) < fabs(readings[1 + best])) best = q;
    }
    row.weakest[found] = best;
  }
}

SPEX_HOST_DEVICE inline void chase_flip(const BchCode& code, int which, ChaseRow& row) {
  const int32_t* add = code.syndromes + row.weakest[which] * code.t;
  for (int j = 0; j < code.t; ++j) {
    row.syndrome[j] ^= add[j];
    row.reversed[j] ^= add[j];
  }
}

// Calls visit(features, count) for each of the patterns [first, last) that decodes: in Gray order,
// no flips first, each pattern with the sign of reading 0 as measured and reversed. `row` is as
// chase_begin left it.
template <typename Visit>
SPEX_HOST_DEVICE inline void chase_patterns(const BchCode& code, ChaseRow& row, uint32_t first,
                                            uint32_t last, const Visit& visit) {
  for (uint32_t gray = first ^ first >> 1; gray; gray &= gray - 1)
    chase_flip(code, lowest_bit(gray), row);
  for (uint32_t pattern = first; pattern < last; ++pattern) {
    if (pattern != first) chase_flip(code, lowest_bit(pattern), row);
    for (int sign = 0; sign < 2; ++sign) {
      int32_t features[kMaxErrors];
      const int count = bch_locate(code, sign ? row.reversed : row.syndrome, features);
      if (count >= 0) visit(features, count);
    }
  }
}

// All 2^flips patterns.
template <typename Visit>
void chase_decode(const BchCode& code, const double* readings, int flips, const Visit& visit) {
  flips = flips < code.parities ? flips : code.parities;
  ChaseRow row;
  chase_begin(code, readings, flips, row);
  chase_patterns(code, row, 0, uint32_t{1} << flips, visit);
}

}  // namespace spex
