#include "boost_samples.h"

#include <algorithm>

#include "bits.h"
#include "threads.h"

#define SPEX_KERNELS "boost_samples.inc"
#include "each_isa.h"

namespace spex {
namespace {

constexpr int64_t kChunkWords = 4;
constexpr int64_t kAhead = 16;  // samples between the one that is added and the one fetched

#if defined(__x86_64__)
#define SPEX_AVX512 __attribute__((target("avx512f,avx512bw")))

SPEX_AVX512 inline __mmask64 load_mask(const uint64_t* bits) {
  return _load_mask64(reinterpret_cast<__mmask64*>(const_cast<uint64_t*>(bits)));
}

// add_lanes with masked arithmetic. Mask registers are loaded with 64 bits and shifted: 16 bits
// would go through a general register, which takes twice as long on Zen 4. Masks are fetched ahead:
// a list skips too much for the processor to foresee, and n = 50,000 is nearly twice as fast.
template <int kWords>
SPEX_AVX512 void add_lanes_masked(const uint64_t* masks, const int32_t* list, int64_t count,
                                  const int32_t* lanes, int32_t* sums, int32_t* counts) {
  for (int64_t first = 0; first < count; first += kPackedRows) {
    const int64_t last = std::min<int64_t>(first + kPackedRows, count);
    __m512i total[4 * kWords];
#pragma GCC unroll 16
    for (int v = 0; v < 4 * kWords; ++v) total[v] = _mm512_setzero_si512();
    for (int64_t i = first; i < last; ++i) {
      __builtin_prefetch(masks + int64_t{list[i + kAhead < count ? i + kAhead : i]} * kWords);
      const __m512i value = _mm512_set1_epi32(lanes[list[i]]);
      const uint64_t* mask = masks + int64_t{list[i]} * kWords;
#pragma GCC unroll 4
      for (int word = 0; word < kWords; ++word) {
        const __mmask64 bits = load_mask(mask + word);
        __m512i* to = total + 4 * word;
        to[0] = _mm512_mask_sub_epi32(to[0], bits, to[0], value);
        to[1] = _mm512_mask_sub_epi32(to[1], _kshiftri_mask64(bits, 16), to[1], value);
        to[2] = _mm512_mask_sub_epi32(to[2], _kshiftri_mask64(bits, 32), to[2], value);
        to[3] = _mm512_mask_sub_epi32(to[3], _kshiftri_mask64(bits, 48), to[3], value);
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < 4 * kWords; ++v)
      avx512::add_totals((avx512::Lanes)total[v], sums + 16 * v, counts + 16 * v);
  }
}
#endif

template <int kWords>
Samples::AddLanes choose(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return add_lanes_masked<kWords>;
  if (isa == Isa::avx2) return avx2::add_lanes<kWords>;
#endif
  return portable::add_lanes<kWords>;
}

Samples::AddLanes choose(Isa isa, int64_t words) {
  return words == 1   ? choose<1>(isa)
         : words == 2 ? choose<2>(isa)
         : words == 3 ? choose<3>(isa)
                      : choose<kChunkWords>(isa);
}

// Transposes 64 x 64 bits in place: bit j of x[i] and bit i of x[j] change places.
void transpose(uint64_t x[64]) {
  uint64_t low = 0x00000000FFFFFFFF;
  for (int half = 32; half; half /= 2, low ^= low << half)
    for (int k = 0; k < 64; k = (k + half + 1) & ~half) {
      const uint64_t swap = ((x[k] >> half) ^ x[k + half]) & low;
      x[k] ^= swap << half;
      x[k + half] ^= swap;
    }
}

}  // namespace

Samples::Samples(const uint64_t* masks, int64_t samples, int64_t rows, int64_t n, Isa isa,
                 int threads)
    : rows(rows),
      n(n),
      words(ceil_div(n, 64)),
      row_words(ceil_div(rows, 64)),
      chunks_(ceil_div(words, kChunkWords)),
      columns_(64 * words * row_words) {
  const int workers = threads_worth(words * row_words * 500, threads);
  parallel_for(static_cast<int64_t>(chunks_.size()), workers, [&](int64_t c) {
    const int64_t first = c * kChunkWords, width = std::min(kChunkWords, words - first);
    chunks_[c] = {first, choose(isa, width), std::vector<uint64_t>(samples * width)};
    for (int64_t i = 0; i < samples; ++i)
      std::copy_n(masks + i * words + first, width, chunks_[c].masks.data() + i * width);
  });
  parallel_for(words, workers, [&](int64_t word) {
    for (int64_t at = 0; at < row_words; ++at) {
      uint64_t x[64] = {};
      for (int64_t i = 0; i < std::min<int64_t>(64, rows - 64 * at); ++i)
        x[i] = masks[(64 * at + i) * words + word];
      transpose(x);
      for (int64_t f = 0; f < 64; ++f) columns_[(64 * word + f) * row_words + at] = x[f];
    }
  });
}

void Samples::sum(const int32_t* list, int64_t count, const int32_t* lanes,
                  int32_t* histogram) const {
  std::fill_n(histogram, 2 * 64 * words, 0);
  for (const Chunk& chunk : chunks_) {
    int32_t* sums = histogram + 64 * chunk.first;
    chunk.add(chunk.masks.data(), list, count, lanes, sums, sums + 64 * words);
  }
}

}  // namespace spex
