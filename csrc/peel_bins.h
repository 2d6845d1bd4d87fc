// The state that peeling works on: what is left of the bins, and what one term looks like in them.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "peel_test.h"

namespace spex {

using Key = std::array<int32_t, kMaxErrors + 1>;  // |k|, its features in ascending order, zeros

struct Term {
  Key key{};
  std::array<int32_t, kMaxGroups> bin{};
  std::array<uint64_t, kMaxWords> bits{};  // bit p: the sign of the term at delay p
  double coef = 0;

  int count() const { return key[0]; }
  const int32_t* features() const { return key.data() + 1; }
};

// The signs of a term at every delay, +-1: signs (shifts).
inline void fill_signs(const Term& term, int shifts, double* signs) {
  for (int p = 0; p < shifts; ++p) signs[p] = bit_at(term.bits.data(), p) ? -1.0 : 1.0;
}

class PeelBins {
 public:
  explicit PeelBins(const PeelProblem& problem);

  int64_t size() const { return static_cast<int64_t>(energy_.size()); }  // C B bins, group by group
  int group_of(int64_t bin) const { return static_cast<int>(bin >> q_.b); }
  const double* readings(int64_t bin) const { return residual_.data() + bin * q_.shifts; }
  double energy(int64_t bin) const { return energy_[bin]; }
  double total_energy() const;
  int64_t bin_of(const Term& term, int g) const { return (int64_t{g} << q_.b) + term.bin[g]; }

  Term place(const int32_t* features, int count) const;

  // Variance of one reading, from the quarter of the bins with the least energy: few of those hold
  // a term.
  double noise() const;

  // The coefficient by the bins of the given groups, each weighted by how well the term explains
  // it.
  double estimate(const Term& term, uint32_t groups) const;

  // Log likelihood ratio of coefficient c over no such term, by the bins of the given groups.
  double ratio(const Term& term, double c, uint32_t groups) const;

  void subtract(const Term& term);

  // Sets the coefficients to the least-squares fit of all bins and the residual to what it leaves.
  // Returns the standard error of a coefficient, rounding included in full: unlike noise it does
  // not average out over a term's readings. Conjugate gradients: every term meets C P readings, and
  // nothing larger than the bins is stored.
  double least_squares(std::vector<Term>& terms);

 private:
  void measure(int64_t bin);
  Residual residual() const { return {residual_.data(), energy_.data()}; }

  const PeelProblem q_;
  std::vector<double> target_;    // (C, B, P)
  std::vector<double> residual_;  // (C, B, P)
  std::vector<double> energy_;    // (C, B): sums of squares of the residual
};

}  // namespace spex
