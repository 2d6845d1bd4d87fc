#include <algorithm>
#include <vector>

#include "kept_tokens.h"
#include "pack_tokens.h"

namespace spex {
namespace {

// A node's subtree ends where a later mask leaves the path above or at it.
void close_subtrees(const int64_t* shared, const int64_t* starts, int64_t samples, int64_t length,
                    int64_t* subtree_end, int64_t* last) {
  std::vector<int64_t> path(length);  // the node of each token of the mask before
  int64_t depth = 0;
  const auto leave = [&](int64_t to, int64_t node) {
    while (depth > to) subtree_end[path[--depth]] = node;
  };
  for (int64_t t = 0; t < samples; ++t) {
    leave(shared[t], starts[t]);
    for (int64_t node = starts[t]; node < starts[t + 1]; ++node) path[depth++] = node;
    last[t] = depth ? path[depth - 1] : -1;
  }
  leave(0, starts[samples]);
}

}  // namespace

void trie_prefixes_cpu(const TokenLayout& layout, const uint64_t* masks, int64_t samples,
                       int64_t* first, int64_t* shared, int64_t* added, int threads) {
  const int64_t words = ceil_div(layout.n, 64), length = layout.length;
  for_blocks_of_masks(layout, samples, threads, [=](int64_t begin, int64_t end, KeptTokens& kept) {
    KeptTokens before = kept;
    if (begin > 0) before.set(masks + (begin - 1) * words);
    for (int64_t t = begin; t < end; ++t) {
      kept.set(masks + t * words);
      int64_t token = 0, same = 0, rest = 0;
      if (t > 0)
        for (; token < length && kept.has(token) == before.has(token); ++token)
          same += kept.has(token);
      first[t] = token;
      for (; token < length; ++token) rest += kept.has(token);
      shared[t] = same;
      added[t] = rest;
      std::swap(kept, before);
    }
  });
}

void pack_trie_cpu(const TokenLayout& layout, const uint64_t* masks, int64_t samples,
                   const int64_t* first, const int64_t* shared, const int64_t* starts,
                   bool original, int64_t* input_ids, int64_t* position_ids, int64_t* subtree_end,
                   int64_t* last, int threads) {
  const int64_t words = ceil_div(layout.n, 64);
  for_blocks_of_masks(layout, samples, threads, [=](int64_t begin, int64_t end, KeptTokens& kept) {
    for (int64_t t = begin; t < end; ++t) {
      kept.set(masks + t * words);
      kept.write(first[t], shared[t], original, input_ids + starts[t], position_ids + starts[t]);
    }
  });
  close_subtrees(shared, starts, samples, layout.length, subtree_end, last);
}

}  // namespace spex
