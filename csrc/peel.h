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

// The most terms that peeling returns: a quarter of the readings.
SPEX_HOST_DEVICE inline int64_t capacity(const PeelProblem& problem) {
  const int64_t of_a_bin = problem.shifts < 8 ? 1 : problem.shifts / 4;
  return (int64_t{problem.groups} << problem.b) * of_a_bin;
}

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

// The same for each of several outputs: their bins follow those of `problem`, their rounding is in
// floors (outputs), and what they found is in features (outputs, capacity, t), coefs (outputs,
// capacity) and counts (outputs). Threads share out the outputs.
void peel_many_cpu(const PeelProblem& problem, int64_t outputs, const double* floors, int chase,
                   int32_t* features, double* coefs, int64_t* counts, Isa isa, int threads);

// The same on a device, where all addresses are, those in `problem` too: the same rules, with long
// sums in another order, and terms in the order in which they were found. memory: peel_cuda_bytes,
// at a multiple of 16. count: their number. Does not wait for the kernel.
int64_t peel_cuda_bytes(const PeelProblem& problem);
void peel_cuda(const PeelProblem& problem, int chase, void* memory, int32_t* features,
               double* coefs, int64_t* count, const Place& place);

}  // namespace spex
