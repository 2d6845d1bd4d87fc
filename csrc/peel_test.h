// What peeling asks of the readings of bins, shared by the CPU and the device: whether a set is a
// term (the zero-, single- and multi-ton test), and in which order it looks for sets.
#pragma once

#include <cmath>
#include <cstdint>

#include "chase.h"
#include "peel.h"

namespace spex {

// Log likelihood ratios a set must reach by the groups that had no part in finding it.
constexpr double kAcceptSingle = 5.0;
constexpr double kAcceptPair = 2.0;    // it matched two bin indices already
constexpr double kAcceptNearby = 2.0;  // beyond the logarithm of the number of sets tried

constexpr double kSignificant = 4.5;  // standard errors a fitted coefficient must be from zero
constexpr double kSettled = 0.02;  // a bin whose energy a refit moved by less is not decoded again
constexpr int kMaxDrops = 2;       // times a set may be found and dropped before it is left alone
constexpr int kMaxRounds = 200;
constexpr int64_t kMaxPool = 1024;  // features whose pairs are tried
constexpr uint32_t kAllGroups = ~uint32_t{0};

// One way of looking for terms, tried when all before it find nothing.
struct Stage {
  enum Kind { single, pairs, nearby } kind;
  int flips;      // of the Chase decoder
  double screen;  // standard deviations above the noise a bin's energy must be to be decoded
};

struct Stages {
  Stage at[16];
  int count;
  int nearby;  // the stage to go back to once a later one has found something
};

SPEX_HOST_DEVICE inline Stages peel_stages(int chase) {
  Stages stages{};
  stages.at[stages.count++] = {Stage::single, 0, 1.0};
  for (int flips = 3; flips < chase; flips += 3)
    stages.at[stages.count++] = {Stage::single, flips, 2.0};
  stages.nearby = stages.count;
  if (chase > 0) {
    stages.at[stages.count++] = {Stage::nearby, 0, 0.0};
    stages.at[stages.count++] = {Stage::single, chase, 1.0};
    stages.at[stages.count++] = {Stage::pairs, chase, 0.0};
  }
  return stages;
}

// What is left of the bins.
struct Residual {
  const double* readings;  // (C, B, P)
  const double* energy;    // (C, B): sums of squares of readings
};

SPEX_HOST_DEVICE inline double sum_of_squares(const double* x, int size) {
  double sum = 0;
  for (int p = 0; p < size; ++p) sum += x[p] * x[p];
  return sum;
}

SPEX_HOST_DEVICE inline int32_t index_in(const PeelProblem& q, int g, const int32_t* features,
                                         int count) {
  int32_t index = 0;
  for (int i = 0; i < count; ++i) index ^= q.hash[g * q.code.n + features[i]];
  return index;
}

// Whether a set falls in a bin, of all C B.
SPEX_HOST_DEVICE inline bool falls_in(const PeelProblem& q, const int32_t* features, int count,
                                      int64_t bin) {
  const int g = static_cast<int>(bin >> q.b);
  return (int64_t{g} << q.b) + index_in(q, g, features, count) == bin;
}

// The bins of a set, bin (C), and its signs at the delays, bits (words).
SPEX_HOST_DEVICE inline void place_set(const PeelProblem& q, const int32_t* features, int count,
                                       int32_t* bin, uint64_t* bits) {
  for (int g = 0; g < q.groups; ++g) bin[g] = index_in(q, g, features, count);
  delay_bits(q.code, features, count, bits);
}

// Variance of one reading, from the energy of a bin that a quarter of all lies below: few of those
// hold a term.
SPEX_HOST_DEVICE inline double noise_of(const PeelProblem& q, double quarter) {
  const double below_mean = 0.674 * sqrt(2.0 / q.shifts);  // of a chi-squared lower quartile
  const double share = 1 - below_mean > 0.1 ? 1 - below_mean : 0.1;
  const double variance = quarter / q.shifts / share;
  return variance < q.floor * q.floor ? q.floor * q.floor : variance;
}

// What one bin says of a set's coefficient, and the variance of its readings about that.
struct Fit {
  double mean, variance;
};

SPEX_HOST_DEVICE inline Fit fit_bin(const PeelProblem& q, const Residual& left, int64_t bin,
                                    const uint64_t* bits) {
  const double mean = signed_sum(bits, left.readings + bin * q.shifts, q.shifts) / q.shifts;
  const double rest = left.energy[bin] - mean * mean * q.shifts;
  return {mean, (rest > 0 ? rest : 0) / (q.shifts - 1) + q.floor * q.floor};
}

// The coefficient by the bins of the given groups, each weighted by how well the set explains it.
SPEX_HOST_DEVICE inline double estimate(const PeelProblem& q, const Residual& left,
                                        const int32_t* bin, const uint64_t* bits, uint32_t groups) {
  double weight = 0, sum = 0;
  for (int g = 0; g < q.groups; ++g) {
    if (!(groups >> g & 1)) continue;
    const Fit f = fit_bin(q, left, (int64_t{g} << q.b) + bin[g], bits);
    weight += 1 / f.variance;
    sum += f.mean / f.variance;
  }
  return sum / weight;
}

// Log likelihood ratio of coefficient c over no such term, by the bins of the given groups.
SPEX_HOST_DEVICE inline double log_ratio(const PeelProblem& q, const Residual& left,
                                         const int32_t* bin, const uint64_t* bits, double c,
                                         uint32_t groups) {
  double sum = 0;
  for (int g = 0; g < q.groups; ++g) {
    if (!(groups >> g & 1)) continue;
    const Fit f = fit_bin(q, left, (int64_t{g} << q.b) + bin[g], bits);
    sum += q.shifts * (2 * f.mean * c - c * c) / (2 * f.variance);
  }
  return sum;
}

}  // namespace spex
