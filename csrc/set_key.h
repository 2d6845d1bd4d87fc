// Sets of few features as whole numbers, so that a set compares, hashes and sorts as a number does.
//
// A set is written as the digits 1 + r of its features, r being a feature's rank among those in
// use: one digit a feature, ascending from the most significant. So a smaller set is a smaller
// number, and sets of one size stand in the order of their features: the order of the numbers is
// the canonical order of terms. Adding one feature to two sets that lack it keeps their order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace spex {

// Words of a number, least significant first. A digit never straddles two words.
template <size_t kWords>
using SetKey = std::array<uint64_t, kWords>;

// How digits lie in a word.
struct KeyShape {
  int bits;  // of a digit, 1 to 31
  int per;   // digits a word, floor(64 / bits)

  explicit KeyShape(int digit_bits) : bits(digit_bits), per(64 / digit_bits) {}
  int words(int digits) const { return (digits + per - 1) / per; }
  uint64_t digit_mask() const { return (uint64_t{1} << bits) - 1; }
  uint64_t word_mask() const { return ~uint64_t{0} >> (64 - bits * per); }
  int top() const { return bits * (per - 1); }  // where the most significant digit of a word starts
};

template <size_t kWords>
bool less(const SetKey<kWords>& a, const SetKey<kWords>& b) {
  for (size_t i = kWords - 1; i > 0; --i)
    if (a[i] != b[i]) return a[i] < b[i];
  return a[0] < b[0];
}

// std::array's own comparison calls memcmp, which takes longer than the rest of a table look-up.
template <size_t kWords>
bool same(const SetKey<kWords>& a, const SetKey<kWords>& b) {
  uint64_t differ = 0;
  for (size_t i = 0; i < kWords; ++i) differ |= a[i] ^ b[i];
  return !differ;
}

// The set with one feature more: `digit` is none of its digits, and the number has room for it.
template <size_t kWords>
SetKey<kWords> with_digit(const SetKey<kWords>& key, uint64_t digit, const KeyShape& shape) {
  SetKey<kWords> out;
  size_t i = 0;
  for (; i < kWords - 1 && key[i] >> shape.top() > digit; ++i) out[i] = key[i];
  int shift = 0;  // smaller digits, from here on, move up by one
  while ((key[i] >> shift & shape.digit_mask()) > digit) shift += shape.bits;
  const uint64_t below = key[i] & ((uint64_t{1} << shift) - 1);
  const uint64_t above = key[i] >> shift << shape.bits << shift & shape.word_mask();
  out[i] = above | digit << shift | below;
  for (++i; i < kWords; ++i)
    out[i] = (key[i] << shape.bits & shape.word_mask()) | key[i - 1] >> shape.top();
  return out;
}

// Calls body(digit) for the digits of a set, the least feature last.
template <size_t kWords, typename Body>
void for_each_digit(const SetKey<kWords>& key, const KeyShape& shape, const Body& body) {
  for (uint64_t word : key)
    for (; word; word >>= shape.bits) body(word & shape.digit_mask());
}

// 64 well mixed bits (the finalizer of splitmix64, word by word).
template <size_t kWords>
uint64_t hash(const SetKey<kWords>& key) {
  uint64_t h = 0;
  for (uint64_t word : key) {
    h = (h ^ word) + 0x9E3779B97F4A7C15;
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9;
    h = (h ^ h >> 27) * 0x94D049BB133111EB;
    h ^= h >> 31;
  }
  return h;
}

}  // namespace spex
