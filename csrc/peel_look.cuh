// Where new terms are looked for, on a device: as PeelSearch (peel_search.h), whose rules these
// are. Candidates come in any order; what is taken of them does not depend on it.
#pragma once

#include "peel_space.cuh"

namespace spex {

// The sum of the readings of a bin and of another, or of the bin alone.
struct JobReadings {
  const double *a, *b;
  __device__ double operator[](int p) const { return b ? a[p] + b[p] : a[p]; }
};

// value(0) + ... + value(size - 1) in the order of dot3.h.
template <typename Value>
__device__ double eight_lanes(int size, const Value& value) {
  double lane[8] = {};
  int p = 0;
  for (; p + 8 <= size; p += 8) {
#pragma unroll
    for (int i = 0; i < 8; ++i) lane[i] += value(p + i);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (p + i < size) lane[i] += value(p + i);
  return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

class PeelLook {
 public:
  __device__ PeelLook(const Team& team, const PeelProblem& q, const PeelSpace& s)
      : team_(team), q_(q), s_(s), sets_(q, s) {}

  // Fills s.found with the candidates of a stage, given `terms` terms; returns how many. `bound` is
  // what their ratio by the groups that did not find them must reach.
  __device__ int64_t look(const Stage& stage, int64_t terms, double& bound) const {
    if (stage.kind == Stage::nearby) return nearby(terms, bound);
    bound = stage.kind == Stage::pairs ? kAcceptPair : kAcceptSingle;
    return decoded(stage);
  }

 private:
  __device__ int64_t decoded(const Stage& stage) const {
    const double least = noise() * (q_.shifts + stage.screen * sqrt(2.0 * q_.shifts));
    clear(kJobs, kFound);
    if (stage.kind == Stage::pairs) {
      list_pairs(least);
    } else {
      team_.each(s_.bins, [&](int64_t bin) {
        if (s_.energy[bin] > least && s_.stale[bin]) add_job(bin, bin);
      });
    }
    const int64_t jobs = s_.counters[kJobs];
    team_.share(s_.bins, [&](int64_t bin) { s_.stale[bin] = 0; });
    const int flips = stage.flips < q_.code.parities ? stage.flips : q_.code.parities;
    const int64_t slices = slices_of(jobs, int64_t{1} << flips);
    const uint32_t patterns = static_cast<uint32_t>((int64_t{1} << flips) / slices);
    team_.each(jobs * slices, [&](int64_t slot) {
      const uint32_t first = static_cast<uint32_t>(slot % slices) * patterns;
      decode(slot, slot / slices, flips, first, first + patterns);
    });
    team_.each(jobs, [&](int64_t job) {
      int64_t best = -1;
      for (int64_t slot = job * slices; slot < (job + 1) * slices; ++slot)
        if (slot_key(slot)[0] >= 0 && (best < 0 || s_.ratio[slot] > s_.ratio[best])) best = slot;
      if (best >= 0) s_.found[count(kFound)] = static_cast<int32_t>(best);
    });
    return s_.counters[kFound];
  }

  // The variance of a reading: the energy that a quarter of the bins lies below, found digit by
  // digit, each of eight bits; numbers that are not negative are ordered as their bits are.
  __device__ double noise() const {
    const auto bits = [&](int64_t bin) {
      const double energy = s_.energy[bin];
      uint64_t word;
      memcpy(&word, &energy, sizeof(word));
      return word;
    };
    int64_t* counts = s_.counters + kCounters;
    uint64_t high = 0;
    int64_t rank = s_.bins / 4;
    for (int shift = 56; shift >= 0; shift -= 8) {
      team_.each(256, [&](int64_t digit) { counts[digit] = 0; });
      team_.each(s_.bins, [&](int64_t bin) {
        const uint64_t word = bits(bin);
        if (shift < 56 && word >> (shift + 8) != high) return;
        atomicAdd(reinterpret_cast<unsigned long long*>(counts + (word >> shift & 255)), 1ULL);
      });
      if (team_.first()) {
        int64_t digit = 0, below = 0;
        while (below + counts[digit] <= rank) below += counts[digit++];
        s_.counters[kDigit] = digit;
        s_.counters[kBelow] = below;
      }
      team_.wait();
      high = high << 8 | static_cast<uint64_t>(s_.counters[kDigit]);
      rank -= s_.counters[kBelow];
    }
    double quarter;
    memcpy(&quarter, &high, sizeof(quarter));
    return noise_of(q_, quarter);
  }

  // For each live bin and each other group, the live bin there that correlates best with it, if
  // any does; a job for each such pair of which one is stale.
  __device__ void list_pairs(double energy) const {
    const double least = sqrt(2 * log(double(int64_t{1} << q_.b)));
    const int64_t width = int64_t{1} << q_.b, items = s_.bins * q_.groups;
    const int64_t slices = slices_of(items, width), part = width / slices;
    team_.each(items * slices, [&](int64_t slot) {
      const int64_t bin = slot / slices / q_.groups, g = slot / slices % q_.groups;
      double most = least;
      int64_t best = -1;
      const int64_t first = g * width + slot % slices * part;
      if (s_.energy[bin] > energy && bin >> q_.b != g)
        for (int64_t other = first; other < first + part; ++other) {
          if (!(s_.energy[other] > energy)) continue;
          const double z = correlation(bin, other);
          if (z <= most) continue;
          most = z;
          best = other;
        }
      s_.ratio[slot] = most;
      slot_key(slot)[0] = static_cast<int32_t>(best);
    });
    team_.each(items, [&](int64_t item) {
      int64_t best = item * slices;
      for (int64_t slot = best + 1; slot < (item + 1) * slices; ++slot)
        if (slot_key(best)[0] < 0 || s_.ratio[slot] > s_.ratio[best])
          if (slot_key(slot)[0] >= 0) best = slot;
      s_.partner[item] = slot_key(best)[0];
    });
    team_.each(items, [&](int64_t item) {
      const int64_t bin = item / q_.groups, other = s_.partner[item];
      if (other < 0 || !(s_.stale[bin] || s_.stale[other])) return;
      const bool both = s_.partner[other * q_.groups + (bin >> q_.b)] == bin;
      if (both && other < bin) return;  // the other has the same pair
      add_job(bin < other ? bin : other, bin < other ? other : bin);
    });
  }

  __device__ double correlation(int64_t bin, int64_t other) const {
    const double *a = readings(bin), *b = readings(other);
    const double inner = eight_lanes(q_.shifts, [&](int p) { return a[p] * b[p]; });
    return inner / sqrt(s_.energy[bin] * s_.energy[other] / q_.shifts);
  }

  // Into the slot: the likeliest of the sets that some flip patterns of the job's readings decode
  // to and that fall in the job's bins; |k| = -1 where there is none.
  __device__ void decode(int64_t slot, int64_t job, int flips, uint32_t first,
                         uint32_t last) const {
    const int64_t bin = s_.jobs[2 * job], other = s_.jobs[2 * job + 1];
    const JobReadings r{readings(bin), bin == other ? nullptr : readings(other)};
    const uint32_t groups = uint32_t{1} << (bin >> q_.b) | uint32_t{1} << (other >> q_.b);
    int32_t* key = slot_key(slot);
    double best = 0;
    key[0] = -1;
    ChaseRow row;
    chase_begin(q_.code, r, flips, row);
    chase_patterns(q_.code, row, first, last, [&](const int32_t* features, int count) {
      if (count > q_.degree || !falls_in(q_, features, count, bin) ||
          !falls_in(q_, features, count, other))
        return;
      int32_t at[kMaxGroups];
      uint64_t bits[kMaxWords];
      place_set(q_, features, count, at, bits);
      const Residual left{s_.residual, s_.energy};
      const double c = estimate(q_, left, at, bits, groups);
      const double ratio = log_ratio(q_, left, at, bits, c, kAllGroups);
      if (key[0] >= 0 ? !(ratio > best) : ratio != ratio) return;  // NaN is no candidate
      best = ratio;
      write_key(key, features, count);
    });
    s_.ratio[slot] = best;
    s_.found_in[slot] = groups;
  }

  // Sets that need no decoding because they are few. Where more than there is room for are likely
  // enough, the likelier ones alone.
  __device__ int64_t nearby(int64_t terms, double& bound) const {
    const int64_t pool = list_pool(terms);
    const int64_t larger = team_.select(
        terms, [&](int64_t s) { return sets_.key(s_.term[s])[0] > 1; },
        [&](int64_t s, int64_t place) { s_.kept[place] = s_.term[s]; });
    const int64_t bases = 1 + pool + larger;
    bound = log(double(bases * pool + 1)) + kAcceptNearby;
    for (double least = bound;; least *= 2) {
      clear(kFound, kFound);
      team_.each(bases * pool, [&](int64_t i) { test(i / pool, i % pool, pool, least); });
      if (s_.counters[kFound] <= s_.slots) return s_.counters[kFound];
      team_.wait();
    }
  }

  // One set: a base (nothing, a feature of the pool, or a term) with a feature toggled.
  __device__ void test(int64_t base, int64_t i, int64_t pool, double least) const {
    const int32_t feature = s_.pool[i];
    int32_t none[2] = {0, 0};
    if (base > 0 && base <= pool) {
      none[0] = 1;
      none[1] = s_.pool[base - 1];
      if (feature <= none[1]) return;  // each pair once
    }
    const int32_t* key = base <= pool ? none : sets_.key(s_.kept[base - 1 - pool]);
    int32_t at[kMaxGroups];
    uint64_t bits[kMaxWords];
    place_set(q_, key + 1, key[0], at, bits);
    double sum = 0, weight = 0;
    for (int g = 0; g < q_.groups; ++g) {
      const int64_t bin = ((int64_t{g} << q_.b) + at[g]) ^ q_.hash[g * q_.code.n + feature];
      const double energy = s_.energy[bin] + q_.shifts * q_.floor * q_.floor;
      const double* r = readings(bin);
      const uint64_t* other = q_.code.columns + int64_t{feature} * q_.code.words;
      const double inner = eight_lanes(
          q_.shifts, [&](int p) { return bit_at(bits, p) != bit_at(other, p) ? -r[p] : r[p]; });
      sum += inner / energy;
      weight += 1 / energy;
    }
    const double ratio = sum * sum / weight / 2;
    int32_t toggled[kMaxErrors + 1];
    if (!(ratio >= least) || !toggle(key, feature, toggled)) return;
    const int64_t slot = count(kFound);
    if (slot >= s_.slots) return;
    write_key(slot_key(slot), toggled + 1, toggled[0]);
    s_.ratio[slot] = ratio;
    s_.found_in[slot] = 0;
    s_.found[slot] = static_cast<int32_t>(slot);
  }

  // out = key with the feature put in or taken out; false if that is too many.
  __device__ bool toggle(const int32_t* key, int32_t feature, int32_t* out) const {
    int count = 0;
    bool in = false, written = false;
    for (int i = 1; i <= key[0]; ++i) in = in || key[i] == feature;
    if (!in && key[0] == q_.degree) return false;
    for (int i = 1; i <= key[0]; ++i) {
      if (!in && !written && key[i] > feature) {
        out[++count] = feature;
        written = true;
      }
      if (key[i] != feature) out[++count] = key[i];
    }
    if (!in && !written) out[++count] = feature;
    out[0] = count;
    return true;
  }

  // All features where their pairs are few enough to try, else the first of those in terms.
  __device__ int64_t list_pool(int64_t terms) const {
    const int64_t n = q_.code.n;
    const bool all = n <= kMaxPool;
    team_.each(n, [&](int64_t i) { s_.marks[i] = all; });
    if (!all)
      team_.each(terms, [&](int64_t s) {
        const int32_t* key = sets_.key(s_.term[s]);
        for (int i = 1; i <= key[0]; ++i) s_.marks[key[i]] = 1;
      });
    const int64_t marked = team_.select(
        n, [&](int64_t i) { return s_.marks[i]; },
        [&](int64_t i, int64_t place) {
          if (place < kMaxPool) s_.pool[place] = static_cast<int32_t>(i);
        });
    return marked < kMaxPool ? marked : kMaxPool;
  }

  // Into how many parts each of `items` is cut so that all threads have work: a power of two, at
  // most `most`, which is one.
  __device__ int64_t slices_of(int64_t items, int64_t most) const {
    int64_t slices = 1;
    while (slices < most && 2 * slices * items <= s_.slots) slices *= 2;
    return slices;
  }

  __device__ void clear(Counter a, Counter b) const {
    if (team_.first()) s_.counters[a] = s_.counters[b] = 0;
    team_.wait();
  }
  __device__ int64_t count(Counter counter) const {
    return static_cast<int64_t>(
        atomicAdd(reinterpret_cast<unsigned long long*>(s_.counters + counter), 1ULL));
  }
  __device__ void add_job(int64_t bin, int64_t other) const {
    const int64_t job = count(kJobs);
    s_.jobs[2 * job] = static_cast<int32_t>(bin);
    s_.jobs[2 * job + 1] = static_cast<int32_t>(other);
  }
  __device__ void write_key(int32_t* key, const int32_t* features, int count) const {
    key[0] = count;
    for (int i = 0; i < q_.code.t; ++i) key[1 + i] = i < count ? features[i] : 0;
  }
  __device__ int32_t* slot_key(int64_t slot) const { return s_.slot_key + slot * (1 + q_.code.t); }
  __device__ const double* readings(int64_t bin) const { return s_.residual + bin * q_.shifts; }

  const Team& team_;
  const PeelProblem& q_;
  const PeelSpace& s_;
  const KnownSets sets_;
};

}  // namespace spex
