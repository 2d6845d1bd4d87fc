#include <algorithm>

#include "bits.h"
#include "masks.h"
#include "threads.h"

#define SPEX_KERNELS "uniform_masks.inc"
#include "each_isa.h"

namespace spex {

void uniform_masks_cpu(uint64_t seed, uint32_t stream, int64_t start, int64_t rows, int64_t n,
                       uint64_t* out, Isa isa, int threads) {
  const int64_t words = ceil_div(n, 64), block = std::max<int64_t>(1, 8192 / words);
  const uint64_t last = n % 64 ? (uint64_t{1} << (n % 64)) - 1 : ~uint64_t{0};
  const auto fill_rows = SPEX_CHOOSE(isa, fill_rows);
  const int workers = threads_worth(rows * words * 2, threads);
  parallel_for(ceil_div(rows, block), workers, [=](int64_t i) {
    const int64_t first = i * block, count = std::min(block, rows - first);
    uint64_t* masks = out + first * words;
    fill_rows(seed, stream, static_cast<uint64_t>(start + first), count, words, masks);
    for (int64_t row = 0; row < count; ++row) masks[row * words + words - 1] &= last;
  });
}

}  // namespace spex
