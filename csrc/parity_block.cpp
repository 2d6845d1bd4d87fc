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

constexpr int kTileWords = 8;          // words of a mask read at once: one cache line
constexpr int kTileStride = 64 * 8 + 8;  // a line more than a transposed word, so that sets differ

int lowest_bit(uint64_t word) { return __builtin_ctzll(word); }

// tile[j][i][lane] = word first + j of sample 64 lane + i, zero past the last sample.
void load_tile(const uint64_t* masks, int64_t samples, int64_t words, int64_t first, int64_t count,
               uint64_t* tile) {
  if (samples < kBlockSamples) std::fill_n(tile, kTileWords * kTileStride, 0);
  for (int64_t i = 0; i < 64; ++i)
    for (int64_t lane = 0; lane < 8 && 64 * lane + i < samples; ++lane) {
      const uint64_t* from = masks + (64 * lane + i) * words + first;
      __builtin_prefetch(from + kTileWords);
      for (int64_t j = 0; j < count; ++j) tile[j * kTileStride + i * 8 + lane] = from[j];
    }
}

}  // namespace

struct Terms::Scratch {
  alignas(64) uint64_t tile[kTileWords * kTileStride];
  alignas(64) uint64_t columns[64 * 8];
  alignas(64) uint64_t tables[16 * 16 * 8];
  alignas(64) uint64_t slab[kSlabWords];
};

std::shared_ptr<Terms::Scratch> Terms::scratch() {
  return std::shared_ptr<Scratch>(new Scratch);  // not cleared: 90 KiB that are written before read
}

Terms::Terms(const uint64_t* support, int64_t terms, int64_t words, Isa isa)
    : terms_(terms), words_(words), isa_(isa), first_(words + 1) {
  std::vector<Member> found;  // term by term, with features counted from 0 to n
  for (int64_t s = 0; s < terms; ++s) {
    const size_t before = found.size(), most = before + 8 * words;
    for (int64_t w = 0; w < words && found.size() <= most; ++w)
      for (uint64_t rest = support[s * words + w]; rest; rest &= rest - 1)
        found.push_back({static_cast<uint32_t>(s), static_cast<uint32_t>(64 * w + lowest_bit(rest))});
    if (found.size() <= most) continue;
    found.resize(before);
    dense_.push_back(static_cast<uint32_t>(s));
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

void Terms::parities(const uint64_t* masks, int64_t samples, Scratch& scratch,
                     Row* rows) const {
  uint64_t* bits = rows->words;
  const auto transpose = SPEX_CHOOSE(isa_, transpose);
  const auto add_members = SPEX_CHOOSE(isa_, add_members);
  const auto add_words = SPEX_CHOOSE(isa_, add_words);
  const bool slice = isa_ == Isa::gfni;
  const int64_t dense = dense_.size();
  std::fill_n(bits, terms_ * kBlockWords, 0);
  for (int64_t first = 0; first < words_; first += kTileWords) {
    const int64_t count = std::min<int64_t>(kTileWords, words_ - first);
    if (dense == 0 && first_[first] == first_[first + count]) continue;
    load_tile(masks, samples, words_, first, count, scratch.tile);
    for (int64_t j = 0; j < count; ++j) {
      const uint64_t* tile = scratch.tile + j * kTileStride;
      const int64_t w = first + j, members = first_[w + 1] - first_[w];
      if (members > 0 || (dense > 0 && !slice)) transpose(tile, scratch.columns);
      if (members > 0) add_members(&members_[first_[w]], members, scratch.columns, bits);
      if (dense > 0 && slice) gfni_slice(tile, scratch.slab + j * (kSlabWords / 8));
      if (dense > 0 && !slice)
        add_words(&dense_words_[w * dense], dense_.data(), dense, scratch.columns, scratch.tables,
                  bits);
    }
    if (dense > 0 && slice)
      gfni_product(scratch.slab, static_cast<int>(8 * count),
                   &dense_words_[first / 8 * ceil_div(dense, 8) * 64], dense_.data(), dense, bits);
  }
}

int64_t Terms::nanoseconds() const {
  const int64_t dense = dense_.size();
  return 300 * words_ + static_cast<int64_t>(members_.size()) + dense * words_ * 6;
}

}  // namespace spex
