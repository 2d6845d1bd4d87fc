#include <algorithm>

#include "bits.h"
#include "parity.h"
#include "threads.h"

#define SPEX_KERNELS "parity_gram.inc"
#include "each_isa.h"

namespace spex {
namespace {

using Differences = void (*)(const uint64_t* const a[4], const uint64_t* const b[4], int64_t count,
                             int64_t differ[16]);

#if defined(__x86_64__)
// count_differences with the instruction that counts: the 16 sums stay in registers.
__attribute__((target("avx512f,avx512vpopcntdq"))) void count_differences_vpopcnt(
    const uint64_t* const a[4], const uint64_t* const b[4], int64_t count, int64_t differ[16]) {
  __m512i sums[16];
#pragma GCC unroll 16
  for (int pair = 0; pair < 16; ++pair) sums[pair] = _mm512_setzero_si512();
  for (int64_t at = 0; at < count; at += 8) {
    const __mmask8 here = count - at < 8 ? (1 << (count - at)) - 1 : 0xFF;
    __m512i x[4];
    for (int i = 0; i < 4; ++i) x[i] = _mm512_maskz_loadu_epi64(here, a[i] + at);
    for (int j = 0; j < 4; ++j) {
      const __m512i y = _mm512_maskz_loadu_epi64(here, b[j] + at);
      for (int i = 0; i < 4; ++i)
        sums[4 * i + j] =
            _mm512_add_epi64(sums[4 * i + j], _mm512_popcnt_epi64(_mm512_xor_si512(x[i], y)));
    }
  }
#pragma GCC unroll 16
  for (int pair = 0; pair < 16; ++pair) {
    alignas(64) int64_t lanes[8];
    _mm512_store_si512(lanes, sums[pair]);
    for (const int64_t lane : lanes) differ[pair] += lane;
  }
}
#endif

Differences choose(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::gfni) return count_differences_vpopcnt;
#endif
  return SPEX_CHOOSE(isa, count_differences);
}

constexpr int64_t kTile = 32;    // a tile of 32 x 32 results reads 64 columns,
constexpr int64_t kWords = 512;  // 4 KiB of each at a time: 256 KiB

}  // namespace

void parity_gram_cpu(const uint64_t* columns, int64_t terms, int64_t samples, double* out, Isa isa,
                     int threads) {
  const int64_t row = ceil_div(samples, 64), tiles = ceil_div(terms, kTile);
  const Differences count_differences = choose(isa);
  const auto nanoseconds = terms * terms / 2 * (10 + row / 8);
  parallel_for(tiles * tiles, threads_worth(nanoseconds, threads), [=](int64_t tile) {
    const int64_t top = tile / tiles * kTile, left = tile % tiles * kTile;
    if (left > top) return;
    const int64_t bottom = std::min(terms, top + kTile), right = std::min(terms, left + kTile);
    int64_t differ[kTile / 4][kTile / 4][16] = {};
    for (int64_t word = 0; word < row; word += kWords)
      for (int64_t s = top; s < bottom; s += 4)
        for (int64_t u = left; u < right && u <= s + 3; u += 4) {
          const uint64_t *a[4], *b[4];  // past the last term: the last one again, dropped below
          for (int64_t i = 0; i < 4; ++i) {
            a[i] = columns + std::min(s + i, terms - 1) * row + word;
            b[i] = columns + std::min(u + i, terms - 1) * row + word;
          }
          count_differences(a, b, std::min(kWords, row - word),
                            differ[(s - top) / 4][(u - left) / 4]);
        }
    for (int64_t s = top; s < bottom; ++s)
      for (int64_t u = left; u < right && u <= s; ++u) {
        const int64_t bits =
            differ[(s - top) / 4][(u - left) / 4][(s - top) % 4 * 4 + (u - left) % 4];
        out[s * terms + u] = out[u * terms + s] = static_cast<double>(samples - 2 * bits);
      }
  });
}

}  // namespace spex
