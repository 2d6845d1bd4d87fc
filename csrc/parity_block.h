// The parities of a block of samples against every term: what all of parity.h is made of.
#pragma once

#include <cstdint>
#include <vector>

#include "isa.h"

namespace spex {

constexpr int64_t kBlockWords = 8;                   // 64-bit words of samples in a block
constexpr int64_t kBlockSamples = 64 * kBlockWords;  // one bit each

// One term's parities for the samples of a block.
struct alignas(64) Row {
  uint64_t words[kBlockWords];
};

// The supports of the terms, laid out for the kernels once per call.
//
// A block of masks is transposed, 64 features at a time, to columns packed along its samples, and
// each term XORs the columns of its features. A term with at most 8 features per word of its
// support does so one by one (`members`: |k| XORs of 64 bytes). A denser one takes whole words: 16
// look-ups a word in tables of the sums of four columns, or with GFNI 64 products of 8 x 8 bit
// matrices by 8 x 64.
class Terms {
 public:
  struct Member {  // feature `feature` of the 64 of a word is in support `term`
    uint32_t term, feature;
  };

  // What a thread needs beside the rows it fills; nothing is kept from call to call.
  struct Scratch {
    static constexpr int kTileWords = 8;            // words of a mask read at once: a cache line
    static constexpr int kTileStride = 64 * 8 + 8;  // one line apart, so that cache sets differ
    alignas(64) uint64_t tile[kTileWords * kTileStride];
    alignas(64) uint64_t columns[64 * 8];
    alignas(64) uint64_t tables[16 * 16 * 8];
    alignas(64) uint64_t slab[kTileWords * 64 * 8];
  };

  // support (terms, words); terms and 64 words below 2**32.
  Terms(const uint64_t* support, int64_t terms, int64_t words, Isa isa);

  // Bit i of rows[s] is <masks[i], support[s]> mod 2 for i < samples, zero above.
  // masks (samples, words), 0 <= samples <= 512; rows (terms).
  void parities(const uint64_t* masks, int64_t samples, Scratch& scratch, Row* rows) const;

  // About the nanoseconds of one call of parities, to decide whether threads are worth starting.
  int64_t nanoseconds() const;

 private:
  void lay_out_words(const uint64_t* support);
  void lay_out_bytes(const uint64_t* support);
  void add_dense(int64_t first, int64_t count, Scratch& scratch, uint64_t* bits) const;

  int64_t terms_, words_;
  Isa isa_;
  std::vector<int64_t> first_;         // (words + 1): the members of word w are
  std::vector<Member> members_;        // [first_[w], first_[w + 1]), terms ascending
  std::vector<uint32_t> dense_;        // (D): the terms that take whole words, and those
  std::vector<uint64_t> dense_words_;  // (words, D); GFNI: (ceil(words / 8), ceil(D / 8), 64 bytes)
};

}  // namespace spex
