// Taking the candidates that hold up, likeliest first, on a device: what one at a time would take.
#pragma once

#include "peel_space.cuh"

namespace spex {

class PeelTake {
 public:
  __device__ PeelTake(const Team& team, const PeelProblem& q, const PeelSpace& s)
      : team_(team), q_(q), s_(s), sets_(q, s) {}

  // Subtracts the candidates of s.found that hold up and adds their sets to the terms; returns
  // whether there were any. A candidate depends only on those before it that share one of its bins,
  // so in each round all go that are the first in all of their bins.
  __device__ bool take(int64_t candidates, double bound, int64_t& terms) const {
    if (candidates == 0) return false;
    if (team_.first()) s_.counters[kTaken] = s_.counters[kFresh] = 0;
    team_.each(candidates, [&](int64_t i) { rank(i, candidates); });
    // Near the capacity what is taken depends on how many were: then one by one.
    const bool apart = terms + candidates > s_.terms || s_.counters[kSets] + candidates > s_.sets;
    for (int64_t round = 0;; ++round) {
      int64_t* const pending = s_.counters + (round % 2 ? kPending : kPendingToo);
      if (team_.first()) *pending = 0;
      list_new(candidates);
      team_.each(s_.bins, [&](int64_t bin) { s_.owner[bin] = INT32_MAX; });
      team_.each(candidates, [&](int64_t r) {
        if (s_.done[r]) return;
        for (int g = 0; g < q_.groups; ++g)
          atomicMin(s_.owner + bin_of(r, g), static_cast<int32_t>(r));
      });
      team_.each(candidates, [&](int64_t r) {
        if (s_.done[r]) return;
        bool turn = !apart || r == round;
        for (int g = 0; turn && g < q_.groups; ++g) turn = s_.owner[bin_of(r, g)] == r;
        if (turn) {
          try_one(r, bound, terms);
          s_.done[r] = 1;
        } else {
          *pending = 1;
        }
      });
      if (!*pending) break;
    }
    list_new(candidates);
    const int64_t before = terms;
    terms += team_.select(
        candidates, [&](int64_t r) { return s_.fresh[r] != kNoSet; },
        [&](int64_t r, int64_t place) { s_.term[before + place] = s_.fresh[r]; });
    return s_.counters[kTaken] != 0;
  }

 private:
  // Puts candidate i where it stands among all, by ratio, then by its set and its groups.
  __device__ void rank(int64_t i, int64_t candidates) const {
    const int32_t own = s_.found[i];
    int64_t rank = 0;
    for (int64_t j = 0; j < candidates; ++j) {
      const int32_t other = s_.found[j];
      if (s_.ratio[other] < s_.ratio[own]) continue;
      rank +=
          s_.ratio[other] > s_.ratio[own] || before(other, own) || (j < i && !before(own, other));
    }
    s_.ranked[rank] = own;
    s_.done[rank] = 0;
    s_.fresh[rank] = s_.unlisted[rank] = kNoSet;
  }

  __device__ bool before(int32_t a, int32_t b) const {
    for (int i = 0; i <= q_.code.t; ++i)
      if (key(a)[i] != key(b)[i]) return key(a)[i] < key(b)[i];
    return s_.found_in[a] < s_.found_in[b];
  }

  // Takes the candidate of rank r if with what was taken before it the other groups' ratio still
  // favours it.
  __device__ void try_one(int64_t r, double bound, int64_t terms) const {
    const int32_t* key = this->key(s_.ranked[r]);
    const uint32_t groups = s_.found_in[s_.ranked[r]];
    int32_t set = sets_.find(key);
    if (set != kNoSet && s_.drops[set] >= kMaxDrops) return;
    int32_t at[kMaxGroups];
    uint64_t bits[kMaxWords];
    place_set(q_, key + 1, key[0], at, bits);
    const Residual left{s_.residual, s_.energy};
    const double c = estimate(q_, left, at, bits, groups ? groups : kAllGroups);
    if (log_ratio(q_, left, at, bits, c, ~groups) < bound) return;
    const bool fresh = set == kNoSet || !s_.in[set];
    if (fresh && terms + s_.counters[kFresh] >= s_.terms) return;
    if (set == kNoSet && s_.counters[kSets] >= s_.sets) return;
    const double coef = estimate(q_, left, at, bits, kAllGroups);
    for (int g = 0; g < q_.groups; ++g) subtract((int64_t{g} << q_.b) + at[g], bits, coef);
    s_.counters[kTaken] = 1;
    if (set == kNoSet) set = s_.unlisted[r] = sets_.add(key);
    s_.coef[set] = fresh ? coef : s_.coef[set] + coef;
    if (!fresh) return;
    s_.in[set] = 1;
    s_.fresh[r] = set;
    atomicAdd(reinterpret_cast<unsigned long long*>(s_.counters + kFresh), 1ULL);
  }

  __device__ void subtract(int64_t bin, const uint64_t* bits, double coef) const {
    double* r = s_.residual + bin * q_.shifts;
    for (int p = 0; p < q_.shifts; ++p) r[p] -= bit_at(bits, p) ? -coef : coef;
    s_.energy[bin] = sum_of_squares(r, q_.shifts);
    s_.stale[bin] = 1;
  }

  // Sets go into the table between the rounds, when nobody looks for one.
  __device__ void list_new(int64_t candidates) const {
    team_.share(candidates, [&](int64_t r) {
      if (s_.unlisted[r] == kNoSet) return;
      sets_.list(s_.unlisted[r]);
      s_.unlisted[r] = kNoSet;
    });
  }

  __device__ int64_t bin_of(int64_t r, int g) const {
    const int32_t* key = this->key(s_.ranked[r]);
    return (int64_t{g} << q_.b) + index_in(q_, g, key + 1, key[0]);
  }
  __device__ const int32_t* key(int64_t slot) const { return s_.slot_key + slot * (1 + q_.code.t); }

  const Team& team_;
  const PeelProblem& q_;
  const PeelSpace& s_;
  const KnownSets sets_;
};

}  // namespace spex
