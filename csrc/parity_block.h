// The parities of a block of samples against every term: what all of parity.h is made of.
#pragma once

#include <cstdint>
#include <memory>
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
// A block of masks is transposed, 64 features at a time, to columns packed along its samples, and each
// term XORs the columns of its features. A term with at most 8 features a word does so one by one
// (`members`: |k| XORs of 64 bytes). A denser one takes whole words (`dense`: 16 look-ups a word in
// tables of sums of four columns, or with GFNI 8 bit-matrix products of 8 x 8 by 8 x 64 bits).
class Terms {
 public:
  struct Member {  // `feature` of 64 in the word is in support `term`
    uint32_t term, feature;
  };
  struct Scratch;  // what one thread needs, about 90 KiB

  // support (terms, words), terms < 2**32.
  Terms(const uint64_t* support, int64_t terms, int64_t words, Isa isa);

  static std::shared_ptr<Scratch> scratch();

  // Bit i of bits[s] is <masks[i], support[s]> mod 2 for i < samples, zero above.
  // masks (samples, words), 0 <= samples <= 512; bits (terms).
  void parities(const uint64_t* masks, int64_t samples, Scratch& scratch, Row* bits) const;

  // About the nanoseconds of one call of parities, to decide whether threads are worth starting.
  int64_t nanoseconds() const;

 private:
  void lay_out_words(const uint64_t* support);
  void lay_out_bytes(const uint64_t* support);

  int64_t terms_, words_;
  Isa isa_;
  std::vector<Member> members_;         // those of word w: [first_[w], first_[w + 1])
  std::vector<int64_t> first_;          // (words + 1)
  std::vector<uint32_t> dense_;         // (D) which terms take whole words
  std::vector<uint64_t> dense_words_;   // (words, D), or with GFNI (ceil(words / 8), groups, 64) tiles
};

}  // namespace spex
