// Peeling: aliased bins -> sparse support, by repeated decode-and-subtract, in one call.
#pragma once

#include <cstdint>

#include "bch.h"
#include "isa.h"

namespace spex {

constexpr int kMaxGroups = 16;

// Bins U[g][p][j] = sum over k with M_g^T k = j of F[k] (-1)^<d_p, k>, plus noise.
struct PeelProblem {
  BchCode code;         // columns has `shifts` bits a row
  int groups;           // C
  int shifts;           // P >= 1 + code.parities
  int b;                // bins a group: B = 2^b
  const int32_t* hash;  // (C, n): row i of M_g as b bits; the bin of k is their XOR over k
  const double* bins;   // (C, P, B)
  int degree;           // largest set to look for, at most code.t
  double floor;         // standard deviation of rounding in one bin, > 0
};

// The most terms peel_cpu returns: a quarter of the readings.
int64_t capacity(const PeelProblem& problem);

// Finds terms k, |k| <= degree, and their coefficients.
//
// Round: every live bin is decoded (chase.h; chase = 0 is hard); of the sets that fall in their own
// bin, the best by the likelihood ratio over all groups is the bin's candidate. Candidates are
// taken best first, each only if, with what was taken before it subtracted, the other groups' ratio
// still favours it; then it is subtracted from all its bins. When a round takes nothing the
// coefficients are refitted by least squares over all bins, terms that are not significant dropped,
// and the search goes on from the new residual. When that finds nothing either, a soft decoder
// looks harder: with more flips, at all sets up to an order or near those found, and at sums of
// bins of two groups that correlate. features (capacity, t): ascending, -1 beyond; coefs
// (capacity). Returns the number of terms, ordered by size of the set, then by its features. Same
// bits for any isa and any number of threads.
int64_t peel_cpu(const PeelProblem& problem, int chase, int32_t* features, double* coefs, Isa isa,
                 int threads);

}  // namespace spex
