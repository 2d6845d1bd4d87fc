// Records of a store on disk: the W words of a mask, q values, and a check of all before it.
#pragma once

#include <cstdint>

namespace spex {

// The check is a hash of mask and values that starts from `identity`, what they are values of. A
// value that is only a bound has the check with the bits of kMark changed: no damage to a few bits
// makes one of the other.
struct RecordLayout {
  int64_t words, values;
  uint64_t identity;
};

constexpr uint64_t kMark = 0x6C9A35C3A65C9A53;  // half of the bits
enum : uint8_t { kDamaged = 0, kWhole = 1, kMarked = 2 };

// masks (rows, words) -> keys (rows): the hash of a mask alone.
void mask_keys_cpu(const uint64_t* masks, int64_t rows, int64_t words, uint64_t* keys);

// masks (rows, words), values (rows, values) as bit patterns, marks (rows) -> records
// (rows, words + values + 1), keys (rows).
void fill_records_cpu(const RecordLayout& layout, const uint64_t* masks, const uint64_t* values,
                      const uint8_t* marks, int64_t rows, uint64_t* records, uint64_t* keys);

// records -> keys (rows), state (rows): kDamaged, kWhole or kMarked.
void check_records_cpu(const RecordLayout& layout, const uint64_t* records, int64_t rows,
                       uint64_t* keys, uint8_t* state);

}  // namespace spex
