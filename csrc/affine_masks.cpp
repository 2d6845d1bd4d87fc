#include <algorithm>
#include <vector>

#include "masks.h"
#include "threads.h"

#define SPEX_KERNELS "affine_masks.inc"
#include "each_isa.h"

namespace spex {
namespace {

// A table of the low bits of l has at least 32 rows and 16 KiB: small enough to stay in a cache,
// long enough that making the row XORed with it costs little.
constexpr int kTableBits = 5;
constexpr int64_t kTableWords = 2048;
constexpr int64_t kPatternWords = 128;  // short rows are repeated to make vectors of them
constexpr int64_t kGroupWords = 65536;  // what a thread takes at a time

// The points of the low bits of l, offset zero: (2**bits, words), doubled up from the zero row.
std::vector<uint64_t> low_points(const uint64_t* columns, int bits, int64_t words) {
  std::vector<uint64_t> table(words << bits);
  for (int i = 0; i < bits; ++i) {
    const int64_t half = words << i;
    for (int64_t row = 0; row < half; row += words)
      for (int64_t w = 0; w < words; ++w)
        table[half + row + w] = table[row + w] ^ columns[i * words + w];
  }
  return table;
}

}  // namespace

// A block is the 2**low points that share p and the high bits of l: the table of the low bits XORed
// with one row, so that every word is written once and read from a cached table.
void affine_masks_cpu(const uint64_t* columns, const uint64_t* offsets, int b, int64_t shifts,
                      int64_t words, uint64_t* out, Isa isa, int threads) {
  if (shifts == 0 || words == 0) return;
  int low = 0, copies = 0;  // 2**copies rows make the pattern
  while (low < b && (low < kTableBits || words << (low + 1) <= kTableWords)) ++low;
  while (copies < low && words << (copies + 1) <= kPatternWords) ++copies;
  const std::vector<uint64_t> table = low_points(columns, low, words);
  const auto add_pattern = SPEX_CHOOSE(isa, add_pattern);
  const int64_t block = words << low, period = words << copies;
  const int64_t blocks = shifts << (b - low), group = std::max<int64_t>(1, kGroupWords / block);
  const int64_t nanoseconds = blocks * block / 4;
  parallel_for((blocks + group - 1) / group, threads_worth(nanoseconds, threads), [&](int64_t g) {
    std::vector<uint64_t> pattern(period);
    for (int64_t at = g * group; at < std::min(blocks, (g + 1) * group); ++at) {
      const int64_t shift = at >> (b - low), high = at & ((int64_t{1} << (b - low)) - 1);
      std::copy_n(offsets + shift * words, words, pattern.data());
      for (int i = low; i < b; ++i)
        if (high >> (i - low) & 1)
          for (int64_t w = 0; w < words; ++w) pattern[w] ^= columns[i * words + w];
      for (int64_t done = words; done < period; done *= 2)
        std::copy_n(pattern.data(), done, pattern.data() + done);
      add_pattern(table.data(), pattern.data(), period, block, out + at * block);
    }
  });
}

}  // namespace spex
