// Least squares on a device: as PeelBins::least_squares, with the sums over terms in pieces.
#pragma once

#include "peel_space.cuh"

namespace spex {

// The terms of each bin: places in s.term, those of bin after bin from s.start on.
class BinMembers {
 public:
  __device__ BinMembers(const PeelProblem& q, const PeelSpace& s) : s_(s), sets_(q, s) {}

  // At once only with other calls of put.
  __device__ void put(int64_t bin, int32_t place) const {
    s_.members[s_.start[bin] + atomicAdd(s_.fill + bin, 1)] = place;
  }

  __device__ void sort(int64_t bin) const {
    for (int64_t i = s_.start[bin] + 1; i < s_.start[bin + 1]; ++i) {
      const int32_t member = s_.members[i];
      int64_t at = i;
      for (; at > s_.start[bin] && s_.members[at - 1] > member; --at)
        s_.members[at] = s_.members[at - 1];
      s_.members[at] = member;
    }
  }

  // What the terms of the bin read at delay p if their coefficients are x.
  __device__ double reading(int64_t bin, int p, const double* x) const {
    double sum = 0;
    for (int64_t m = s_.start[bin]; m < s_.start[bin + 1]; ++m) {
      const int32_t s = s_.members[m];
      sum += bit_at(sets_.bits(s_.term[s]), p) ? -x[s] : x[s];
    }
    return sum;
  }

 private:
  const PeelSpace& s_;
  const KnownSets sets_;
};

class DeviceFit {
 public:
  __device__ DeviceFit(const Team& team, const PeelProblem& q, const PeelSpace& s)
      : team_(team), q_(q), s_(s), sets_(q, s), members_(q, s) {}

  __device__ double total_energy() const {
    return team_.sum(s_.bins, [&](int64_t bin) { return s_.energy[bin]; });
  }

  // Fits the coefficients of the first `count` of s.term to all bins, sets the residual to what
  // that leaves, and returns the standard error of a coefficient.
  __device__ double least_squares(int64_t count) const {
    list_members(count);
    const double meets = double(q_.groups) * q_.shifts;
    team_.each(count, [&](int64_t s) { s_.x[s] = s_.coef[s_.term[s]]; });
    residual();
    gather(s_.residual, count);
    double size = team_.sum(count, [&](int64_t s) {
      s_.step[s] = s_.slope[s] = joined(s);
      return s_.slope[s] * s_.slope[s];
    });
    const double goal =
        1e-31 * meets * meets * team_.sum(count, [&](int64_t s) { return s_.x[s] * s_.x[s]; });
    for (int iteration = 0; iteration < 100 && size > goal; ++iteration) {
      spread(s_.step, [&](int64_t i, double value) { s_.image[i] = value; });
      gather(s_.image, count);
      const double length = size / team_.sum(count, [&](int64_t s) {
        s_.turned[s] = joined(s);
        return s_.step[s] * s_.turned[s];
      });
      const double next = team_.sum(count, [&](int64_t s) {
        s_.x[s] += length * s_.step[s];
        s_.slope[s] -= length * s_.turned[s];
        return s_.slope[s] * s_.slope[s];
      });
      const double turn = next / size;
      team_.each(count, [&](int64_t s) { s_.step[s] = s_.slope[s] + turn * s_.step[s]; });
      size = next;
    }
    residual();
    team_.share(count, [&](int64_t s) { s_.coef[s_.term[s]] = s_.x[s]; });
    team_.each(s_.bins, [&](int64_t bin) {
      s_.energy[bin] = sum_of_squares(s_.residual + bin * q_.shifts, q_.shifts);
    });
    const double readings = double(s_.bins) * q_.shifts;
    const double spare = readings - double(count) > 1 ? readings - double(count) : 1;
    return sqrt(total_energy() / spare / meets) + q_.floor;
  }

 private:
  // The terms that fall in each bin, in their order.
  __device__ void list_members(int64_t count) const {
    team_.each(s_.bins + 1, [&](int64_t bin) { s_.start[bin] = s_.fill[bin] = 0; });
    team_.each(count, [&](int64_t s) {
      for (int g = 0; g < q_.groups; ++g) atomicAdd(s_.fill + sets_.bin(s_.term[s], g), 1);
    });
    team_.scan(
        s_.bins + 1, [&](int64_t bin) { return int64_t{s_.fill[bin]}; },
        [&](int64_t bin, int64_t before) {
          s_.start[bin] = before;
          s_.fill[bin] = 0;
        });
    team_.each(count, [&](int64_t s) {
      for (int g = 0; g < q_.groups; ++g)
        members_.put(sets_.bin(s_.term[s], g), static_cast<int32_t>(s));
    });
    team_.each(s_.bins, [&](int64_t bin) { members_.sort(bin); });
  }

  // write(i, sum over the terms of reading i's bin of +-x): what terms of coefficients x read.
  template <typename Write>
  __device__ void spread(const double* x, const Write& write) const {
    team_.each(s_.bins * q_.shifts, [&](int64_t i) {
      write(i, members_.reading(i / q_.shifts, static_cast<int>(i % q_.shifts), x));
    });
  }

  __device__ void residual() const {
    spread(s_.x, [&](int64_t i, double value) { s_.residual[i] = s_.target[i] - value; });
  }

  // The transpose: part[s, g], whose sum over the groups is joined(s).
  __device__ void gather(const double* readings, int64_t count) const {
    team_.each(count * q_.groups, [&](int64_t i) {
      const int32_t set = s_.term[i / q_.groups];
      const int64_t bin = sets_.bin(set, static_cast<int>(i % q_.groups));
      s_.part[i] = signed_sum(sets_.bits(set), readings + bin * q_.shifts, q_.shifts);
    });
  }
  __device__ double joined(int64_t s) const {
    double sum = 0;
    for (int g = 0; g < q_.groups; ++g) sum += s_.part[s * q_.groups + g];
    return sum;
  }

  const Team& team_;
  const PeelProblem& q_;
  const PeelSpace& s_;
  const KnownSets sets_;
  const BinMembers members_;
};

}  // namespace spex
