// Where new terms are looked for, in what is left of the bins.
#pragma once

#include "dot3.h"
#include "peel_bins.h"

namespace spex {

// A set that may be a term.
struct Candidate {
  bool found = false;
  Key key{};
  uint32_t groups = 0;  // bit g: found in a bin of group g
  double ratio = 0;     // log likelihood ratio by all groups
  double bound = 0;     // what the other groups' must reach
};

class PeelSearch {
 public:
  PeelSearch(const PeelProblem& problem, const PeelBins& bins, Isa isa, int threads)
      : q_(problem), bins_(bins), dot3_(dot3_for(isa)), threads_(threads) {}

  // The likeliest set of each bin, or pair of bins, that the stage decodes and that has changed
  // since it was last decoded: `stale` (C B), cleared by this. Entries without `found` are of no
  // use.
  std::vector<Candidate> decoded(const Stage& stage, std::vector<char>& stale) const;

  // Sets that need no decoding because they are few: single features, pairs, and the terms found so
  // far with one feature more or less. Each is tested on all its bins at once.
  std::vector<Candidate> nearby(const std::vector<Term>& terms) const;

 private:
  using Job = std::array<int64_t, 2>;  // a bin twice, or two bins of different groups

  std::vector<Job> correlated(const std::vector<int64_t>& live,
                              const std::vector<char>& stale) const;
  Candidate decode(const Job& job, int flips) const;
  std::vector<int32_t> features_at_hand(const std::vector<Term>& terms) const;
  double nearby_ratio(const Term& base, const double* signs, const double* other,
                      int32_t feature) const;
  bool toggle(const Key& base, int32_t feature, Key& out) const;

  const PeelProblem q_;
  const PeelBins& bins_;
  const Dot3 dot3_;
  const int threads_;
};

}  // namespace spex
