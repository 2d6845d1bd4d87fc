// What the C++ tests share: CHECK, exact-size buffers, and the ways a kernel can run.
//
// One file per kernel, with `void test_<kernel>()`, declared and called in main.cpp. The program
// is built under the sanitizers by `make sanitize`. Buffers are std::vector of exactly the
// documented size, so that an access past one is caught, and outputs start as garbage, so that a
// gap is seen.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "isa.h"

// Ends the program unless the condition holds; printf arguments that name the case may follow it.
#define CHECK(condition, ...)                                                       \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: %s is false: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                            \
      std::fputc('\n', stderr);                                                     \
      std::exit(1);                                                                 \
    }                                                                               \
  } while (false)

namespace spex_test {

// Calls body(isa, threads) for every instruction set of this machine and some numbers of threads.
template <typename Body>
void for_each_way(const Body& body) {
  for (int isa = 0; isa <= static_cast<int>(spex::best_isa()); ++isa)
    for (int threads : {1, 2, 7}) body(spex::resolve_isa(isa), threads);
}

// An output buffer in which every byte is 0xFF: NaN as a float, all bits set as a word.
template <typename T>
std::vector<T> garbage(int64_t size) {
  std::vector<T> out(size);
  if (size) std::memset(out.data(), 0xFF, size * sizeof(T));
  return out;
}

inline std::vector<uint64_t> random_words(int64_t size, uint64_t seed) {
  std::mt19937_64 next(seed);
  std::vector<uint64_t> out(size);
  for (uint64_t& word : out) word = next();
  return out;
}

// Whole numbers in [-9, 9]: their sums and differences are exact in float32.
template <typename T>
std::vector<T> random_integers(int64_t size, uint64_t seed) {
  std::mt19937_64 next(seed);
  std::vector<T> out(size);
  for (T& x : out) x = static_cast<T>(static_cast<int>(next() % 19) - 9);
  return out;
}

// (-1)^<mask, support>, one bit at a time.
inline int naive_sign(const uint64_t* mask, const uint64_t* support, int64_t words) {
  int sign = 1;
  for (int64_t j = 0; j < 64 * words; ++j)
    if (mask[j / 64] >> (j % 64) & support[j / 64] >> (j % 64) & 1) sign = -sign;
  return sign;
}

}  // namespace spex_test
