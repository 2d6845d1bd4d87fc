#include "records.h"

#include <cstring>

namespace spex {
namespace {

// One to one in either argument for the other fixed.
inline uint64_t mix(uint64_t state, uint64_t word) {
  state = (state ^ word) * 0x9E3779B97F4A7C15;
  state = (state ^ state >> 32) * 0xD6E8FEB86659FD93;
  return state ^ state >> 29;
}

inline uint64_t mix(uint64_t state, const uint64_t* words, int64_t count) {
  for (int64_t i = 0; i < count; ++i) state = mix(state, words[i]);
  return state;
}

inline uint64_t key_of(const uint64_t* mask, int64_t words) {
  return mix(0x243F6A8885A308D3, mask, words);
}

}  // namespace

void mask_keys_cpu(const uint64_t* masks, int64_t rows, int64_t words, uint64_t* keys) {
  for (int64_t row = 0; row < rows; ++row) keys[row] = key_of(masks + row * words, words);
}

void fill_records_cpu(const RecordLayout& layout, const uint64_t* masks, const uint64_t* values,
                      const uint8_t* marks, int64_t rows, uint64_t* records, uint64_t* keys) {
  const auto [words, count, identity] = layout;
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(records, masks, words * sizeof *masks);
    std::memcpy(records + words, values, count * sizeof *values);
    keys[row] = key_of(masks, words);
    const uint64_t check = mix(keys[row] ^ identity, values, count);
    records[words + count] = marks[row] ? check ^ kMark : check;
    masks += words;
    values += count;
    records += words + count + 1;
  }
}

void check_records_cpu(const RecordLayout& layout, const uint64_t* records, int64_t rows,
                       uint64_t* keys, uint8_t* state) {
  const auto [words, count, identity] = layout;
  for (int64_t row = 0; row < rows; ++row) {
    keys[row] = key_of(records, words);
    const uint64_t check = mix(keys[row] ^ identity, records + words, count);
    const uint64_t there = records[words + count];
    state[row] = there == check ? kWhole : there == (check ^ kMark) ? kMarked : kDamaged;
    records += words + count + 1;
  }
}

}  // namespace spex
