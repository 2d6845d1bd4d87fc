#include <algorithm>

#include "bits.h"
#include "pack_tokens.h"
#include "threads.h"

namespace spex {

void mask_lengths_cpu(const uint64_t* masks, const int64_t* lengths, int64_t samples, int64_t n,
                      int64_t fixed, int64_t* out, int threads) {
  const int64_t words = ceil_div(n, 64), block = std::max<int64_t>(1, 65536 / n);
  const uint64_t last = n % 64 ? (uint64_t{1} << (n % 64)) - 1 : ~uint64_t{0};
  parallel_for(ceil_div(samples, block), threads_worth(samples * n, threads), [=](int64_t i) {
    for (int64_t t = i * block; t < std::min(samples, (i + 1) * block); ++t) {
      int64_t sum = fixed;
      for (int64_t w = 0; w < words; ++w) {
        uint64_t word = masks[t * words + w] & (w == words - 1 ? last : ~uint64_t{0});
        for (; word; word &= word - 1) sum += lengths[64 * w + __builtin_ctzll(word)];
      }
      out[t] = sum;
    }
  });
}

}  // namespace spex
