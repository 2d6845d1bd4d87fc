#include "parity_gfni.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>

#define SPEX_GFNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,gfni")))

namespace spex {
namespace {

// Byte indices for _mm512_permutex2var_epi8 that swap the blocks of `half` bytes off the diagonal.
struct Swap {
  alignas(64) uint8_t upper[64], lower[64];
  constexpr explicit Swap(int half) : upper(), lower() {
    for (int at = 0; at < 64; ++at) {
      upper[at] = static_cast<uint8_t>(at & half ? 64 + at - half : at);
      lower[at] = static_cast<uint8_t>(at & half ? 64 + at : at + half);
    }
  }
};
constexpr Swap kSwaps[] = {Swap(1), Swap(2), Swap(4)};

// Byte k of each qword of x[c] <-> byte c of each qword of x[k].
SPEX_GFNI inline void transpose_bytes(__m512i x[8]) {
  for (int stage = 0; stage < 3; ++stage) {
    const __m512i upper = _mm512_load_si512(kSwaps[stage].upper);
    const __m512i lower = _mm512_load_si512(kSwaps[stage].lower);
    for (int k = 0; k < 8; ++k) {
      if (k & 1 << stage) continue;
      const __m512i a = x[k], b = x[k | 1 << stage];
      x[k] = _mm512_permutex2var_epi8(a, upper, b);
      x[k | 1 << stage] = _mm512_permutex2var_epi8(a, lower, b);
    }
  }
}

// sums[8 r + i] = the parities of sample groups i < kMatrices with groups r < kGroups of 8 terms.
// Two byte columns a step, which one three-way XOR adds; the sums stay in registers.
template <int kGroups, int kMatrices>
SPEX_GFNI inline void product(const uint64_t* slab, int columns, const uint64_t* supports,
                              __m512i* sums) {
  __m512i sum[kGroups][kMatrices];
  for (int r = 0; r < kGroups; ++r)
    for (int i = 0; i < kMatrices; ++i) sum[r][i] = _mm512_setzero_si512();
  for (int c = 0; c < columns; c += 2) {
    __m512i even[kGroups], odd[kGroups];
    for (int r = 0; r < kGroups; ++r) {
      even[r] = _mm512_set1_epi64(static_cast<int64_t>(supports[r * 64 + c]));
      odd[r] = _mm512_set1_epi64(static_cast<int64_t>(supports[r * 64 + c + 1]));
    }
#pragma GCC unroll 8
    for (int i = 0; i < kMatrices; ++i) {
      const __m512i first = _mm512_load_si512(slab + (c * 8 + i) * 8);
      const __m512i second = _mm512_load_si512(slab + (c * 8 + 8 + i) * 8);
#pragma GCC unroll 4
      for (int r = 0; r < kGroups; ++r)
        sum[r][i] =
            _mm512_ternarylogic_epi64(sum[r][i], _mm512_gf2p8affine_epi64_epi8(even[r], first, 0),
                                      _mm512_gf2p8affine_epi64_epi8(odd[r], second, 0), 0x96);
    }
  }
  for (int r = 0; r < kGroups; ++r)
    for (int i = 0; i < kMatrices; ++i) sums[8 * r + i] = sum[r][i];
}

// bits[terms[i]] ^= what the sums of a group say of its term i.
SPEX_GFNI inline void add(__m512i sums[8], const uint32_t* terms, int64_t count, uint64_t* bits) {
  transpose_bytes(sums);
  for (int i = 0; i < std::min<int64_t>(8, count); ++i) {
    uint64_t* row = bits + int64_t{terms[i]} * 8;
    _mm512_store_si512(row, _mm512_xor_si512(_mm512_load_si512(row), sums[i]));
  }
}

}  // namespace

SPEX_GFNI void gfni_slice(const uint64_t* tile, uint64_t* slab) {
  for (int group = 0; group < 8; ++group) {
    __m512i x[8];
    // Row 7 - i of the matrix operand of gf2p8affineqb makes bit i: the samples go in backwards.
    for (int i = 0; i < 8; ++i) x[7 - i] = _mm512_load_si512(tile + (group * 8 + i) * 8);
    transpose_bytes(x);
    for (int i = 0; i < 8; ++i) _mm512_store_si512(slab + (i * 8 + group) * 8, x[i]);
  }
}

SPEX_GFNI void gfni_product(const uint64_t* slab, int columns, const uint64_t* supports,
                            const uint32_t* terms, int64_t count, uint64_t* bits) {
  __m512i sums[4 * 8];
  for (int64_t done = 0; done < count;) {
    const int groups = count - done > 24 ? 4 : 1;
    if (groups == 4) {  // 16 of the 32 registers hold sums: half of the slab at a time
      product<4, 4>(slab, columns, supports + done * 8, sums);
      product<4, 4>(slab + 4 * 8, columns, supports + done * 8, sums + 4);
    } else {
      product<1, 8>(slab, columns, supports + done * 8, sums);
    }
    for (int r = 0; r < groups; ++r, done += 8) add(sums + 8 * r, terms + done, count - done, bits);
  }
}

}  // namespace spex
#else
namespace spex {

void gfni_slice(const uint64_t*, uint64_t*) {}
void gfni_product(const uint64_t*, int, const uint64_t*, const uint32_t*, int64_t, uint64_t*) {}

}  // namespace spex
#endif
