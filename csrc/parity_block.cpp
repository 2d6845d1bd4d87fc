#include "parity_block.h"

#include <algorithm>

#include "bits.h"
#include "parity_gfni.h"

namespace spex {
using Member = Terms::Member;
}  // namespace spex

#define SPEX_KERNELS "parity_block.inc"
#include "each_isa.h"

namespace spex {
namespace {

constexpr int kTileWords = Terms::Scratch::kTileWords, kTileStride = Terms::Scratch::kTileStride;

// More than 8 features a word: whole words are then cheaper than one feature after the other.
bool is_dense(const uint64_t* support, int64_t words) {
  int64_t order = 0;
  for (int64_t w = 0; w < words && order <= 8 * words; ++w)
    if (support[w]) order += popcount(support[w]);
  return order > 8 * words;
}

// tile[j][i][lane] = word first + j of sample 64 lane + i, zero past the last sample.
void load_tile(const uint64_t* masks, int64_t samples, int64_t words, int64_t first, int64_t count,
               uint64_t* tile) {
  if (samples < kBlockSamples) std::fill_n(tile, kTileWords * kTileStride, 0);
  for (int64_t i = 0; i < 64; ++i)
    for (int64_t lane = 0; lane < 8 && 64 * lane + i < samples; ++lane) {
      const uint64_t* from = masks + (64 * lane + i) * words + first;
      if (first + kTileWords < words) __builtin_prefetch(from + kTileWords);  // for the next tile
      for (int64_t j = 0; j < count; ++j) tile[j * kTileStride + i * 8 + lane] = from[j];
    }
}

}  // namespace

Terms::Terms(const uint64_t* support, int64_t terms, int64_t words, Isa isa)
    : terms_(terms), words_(words), isa_(isa), first_(words + 1) {
  std::vector<Member> found;  // term by term, with features counted from 0 to n
  for (int64_t s = 0; s < terms; ++s) {
    const uint32_t term = static_cast<uint32_t>(s);
    if (is_dense(support + s * words, words)) {
      dense_.push_back(term);
      continue;
    }
    for (int64_t w = 0; w < words; ++w)
      for (uint64_t rest = support[s * words + w]; rest; rest &= rest - 1)
        found.push_back({term, static_cast<uint32_t>(64 * w + __builtin_ctzll(rest))});
  }
  for (const Member& member : found) ++first_[member.feature / 64 + 1];
  for (int64_t w = 0; w < words; ++w) first_[w + 1] += first_[w];
  members_.resize(found.size());
  std::vector<int64_t> next = first_;
  for (const Member& member : found)
    members_[next[member.feature / 64]++] = {member.term, member.feature % 64};
  isa == Isa::gfni ? lay_out_bytes(support) : lay_out_words(support);
}

void Terms::lay_out_words(const uint64_t* support) {
  const int64_t count = dense_.size();
  dense_words_.resize(words_ * count);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t w = 0; w < words_; ++w)
      dense_words_[w * count + i] = support[dense_[i] * words_ + w];
}

void Terms::lay_out_bytes(const uint64_t* support) {
  const int64_t count = dense_.size(), groups = ceil_div(count, 8);
  dense_words_.resize(ceil_div(words_, 8) * groups * 64);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t w = 0; w < words_; ++w)
      for (int64_t byte = 0; byte < 8; ++byte)
        dense_words_[(w / 8 * groups + i / 8) * 64 + w % 8 * 8 + byte] |=
            (support[dense_[i] * words_ + w] >> 8 * byte & 0xFF) << 8 * (i % 8);
}

void Terms::parities(const uint64_t* masks, int64_t samples, Scratch& scratch, Row* rows) const {
  uint64_t* bits = rows->words;
  const auto transpose = SPEX_CHOOSE(isa_, transpose);
  const auto add_members = SPEX_CHOOSE(isa_, add_members);
  std::fill_n(bits, terms_ * kBlockWords, 0);
  for (int64_t first = 0; first < words_; first += kTileWords) {
    const int64_t count = std::min<int64_t>(kTileWords, words_ - first);
    if (dense_.empty() && first_[first] == first_[first + count]) continue;
    load_tile(masks, samples, words_, first, count, scratch.tile);
    for (int64_t w = first; w < first + count; ++w) {
      if (first_[w] == first_[w + 1]) continue;
      transpose(scratch.tile + (w - first) * kTileStride, scratch.columns);
      add_members(&members_[first_[w]], first_[w + 1] - first_[w], scratch.columns, bits);
    }
    if (!dense_.empty()) add_dense(first, count, scratch, bits);
  }
}

// Adds words [first, first + count) of the dense terms, from the tile of these words.
void Terms::add_dense(int64_t first, int64_t count, Scratch& scratch, uint64_t* bits) const {
  const int64_t dense = dense_.size();
  if (isa_ == Isa::gfni) {
    for (int64_t j = 0; j < count; ++j)
      gfni_slice(scratch.tile + j * kTileStride, scratch.slab + j * 64 * 8);
    const uint64_t* supports = &dense_words_[first / kTileWords * ceil_div(dense, 8) * 64];
    gfni_product(scratch.slab, static_cast<int>(8 * count), supports, dense_.data(), dense, bits);
    return;
  }
  const auto transpose = SPEX_CHOOSE(isa_, transpose);
  const auto add_words = SPEX_CHOOSE(isa_, add_words);
  for (int64_t j = 0; j < count; ++j) {
    transpose(scratch.tile + j * kTileStride, scratch.columns);
    add_words(&dense_words_[(first + j) * dense], dense_.data(), dense, scratch.columns,
              scratch.tables, bits);
  }
}

int64_t Terms::nanoseconds() const {  // as measured on a Zen 4 core, within a factor of two
  const int64_t members = members_.size(), dense = dense_.size();
  return 400 * words_ + members + dense * words_ * (isa_ == Isa::gfni ? 3 : 10);
}

}  // namespace spex
