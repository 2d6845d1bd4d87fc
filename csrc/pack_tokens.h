// From packed masks to tokens: how many each mask keeps, which, and the trie of all of them.
#pragma once

#include <cstdint>

namespace spex {

// The tokens of an input with every feature present, (length) each: the id, and the feature in
// [0, n) that it belongs to, or n for a token that is always kept.
struct TokenLayout {
  const int64_t* ids;
  const int64_t* owner;
  int64_t length, n;
};

// In all of these masks is (samples, ceil(n / 64)); bits beyond the n features are not read.

// out (samples): fixed + the sum of lengths[j], (n), over the features j of each mask.
void mask_lengths_cpu(const uint64_t* masks, const int64_t* lengths, int64_t samples, int64_t n,
                      int64_t fixed, int64_t* out, int threads);

// The kept tokens of mask t, into [starts[t], starts[t + 1]): input_ids; position_ids, counted from
// 0 or (original) their places in the layout; sequence, t. starts (samples + 1) must fit the masks.
void pack_tokens_cpu(const TokenLayout& layout, const uint64_t* masks, int64_t samples,
                     const int64_t* starts, bool original, int64_t* input_ids,
                     int64_t* position_ids, int32_t* sequence, int threads);

// What each mask shares with the one before it, each (samples): first, the first token that only
// one of the two keeps (0 for mask 0, the length where there is none); shared, the tokens kept
// before that one; added, the tokens kept from there on.
void trie_prefixes_cpu(const TokenLayout& layout, const uint64_t* masks, int64_t samples,
                       int64_t* first, int64_t* shared, int64_t* added, int threads);

// The nodes that mask t adds, into [starts[t], starts[t + 1]): input_ids; position_ids, the depth
// or (original) the places in the layout; subtree_end, the first node that does not stand below.
// And last (samples), the node of the last token of each mask, or -1. first and shared are those of
// trie_prefixes_cpu, starts (samples + 1) the offsets of its added.
void pack_trie_cpu(const TokenLayout& layout, const uint64_t* masks, int64_t samples,
                   const int64_t* first, const int64_t* shared, const int64_t* starts,
                   bool original, int64_t* input_ids, int64_t* position_ids, int64_t* subtree_end,
                   int64_t* last, int threads);

}  // namespace spex
