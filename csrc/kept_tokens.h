// Which tokens of a layout a mask keeps: the loop that packs and tries share.
#pragma once

#include <algorithm>
#include <vector>

#include "bits.h"
#include "pack_tokens.h"
#include "threads.h"

namespace spex {

// A mask with one more feature, n, that is present: tokens that are always kept need no branch.
class KeptTokens {
 public:
  explicit KeptTokens(const TokenLayout& layout)
      : layout_(layout), words_(layout.n / 64 + 1), kept_(layout.length) {}

  void set(const uint64_t* mask) {
    std::copy_n(mask, ceil_div(layout_.n, 64), words_.begin());
    words_[layout_.n / 64] |= uint64_t{1} << (layout_.n % 64);
  }

  int64_t has(int64_t token) const {
    const auto owner = static_cast<uint64_t>(layout_.owner[token]);
    return words_[owner / 64] >> (owner % 64) & 1;
  }

  // Writes the kept tokens from `from` on: ids, and positions counted from `depth` or original.
  int64_t write(int64_t from, int64_t depth, bool original, int64_t* ids, int64_t* positions) {
    int64_t count = 0;
    for (int64_t token = from; token < layout_.length; ++token) {
      kept_[count] = token;  // the next one overwrites it where it is not kept
      count += has(token);
    }
    for (int64_t i = 0; i < count; ++i) ids[i] = layout_.ids[kept_[i]];
    for (int64_t i = 0; i < count; ++i) positions[i] = original ? kept_[i] : depth + i;
    return count;
  }

 private:
  TokenLayout layout_;
  std::vector<uint64_t> words_;
  std::vector<int64_t> kept_;
};

// body(first, last, kept) for blocks of masks that cover [0, samples), each with a KeptTokens.
template <typename Body>
void for_blocks_of_masks(const TokenLayout& layout, int64_t samples, int threads,
                         const Body& body) {
  const int64_t block = 1 + 65536 / (layout.length + 1);
  const int workers = threads_worth(samples * layout.length, threads);
  parallel_for(ceil_div(samples, block), workers, [&](int64_t i) {
    KeptTokens kept(layout);
    body(i * block, std::min(samples, (i + 1) * block), kept);
  });
}

}  // namespace spex
