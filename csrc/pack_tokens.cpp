#include "pack_tokens.h"

#include "kept_tokens.h"

namespace spex {

void pack_tokens_cpu(const TokenLayout& layout, const uint64_t* masks, int64_t samples,
                     const int64_t* starts, bool original, int64_t* input_ids,
                     int64_t* position_ids, int32_t* sequence, int threads) {
  const int64_t words = ceil_div(layout.n, 64);
  for_blocks_of_masks(layout, samples, threads, [=](int64_t begin, int64_t end, KeptTokens& kept) {
    for (int64_t t = begin; t < end; ++t) {
      kept.set(masks + t * words);
      kept.write(0, 0, original, input_ids + starts[t], position_ids + starts[t]);
      std::fill(sequence + starts[t], sequence + starts[t + 1], static_cast<int32_t>(t));
    }
  });
}

}  // namespace spex
