// The memory that peeling on a device works in: what is left of the bins, the sets it knows, the
// candidates of a round, the vectors of a fit.
#pragma once

#include <algorithm>

#include "peel_test.h"
#include "team.cuh"

namespace spex {

// Hands out parts of one block of memory, or only counts their bytes where there is none.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}
  template <typename T>
  T* take(int64_t count) {
    T* const part = reinterpret_cast<T*>(base_ + used_);
    used_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 16) * 16;
    return part;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

constexpr int kNoSet = -1;

struct PeelSpace {
  int64_t bins, terms, sets, slots, table;  // how many; terms = capacity

  double* pieces;             // of the team
  double *target, *residual;  // (bins, shifts)
  double* image;              // (bins, shifts)
  double *energy, *before;    // (bins)
  int32_t* stale;             // (bins): changed since they were last decoded
  int32_t* owner;             // (bins): the first pending candidate that falls in it
  int32_t* partner;           // (bins, groups): the bin of a group that correlates best, or -1

  // Sets: all that were ever terms. A set's number is for looking it up; nothing depends on it.
  int32_t* key;                 // (sets, 1 + t): |k|, its features in ascending order, zeros
  int32_t* set_bin;             // (sets, groups)
  uint64_t* set_bits;           // (sets, words)
  double* coef;                 // (sets)
  int32_t* drops;               // (sets): how often a refit dropped it
  int32_t* in;                  // (sets): whether it is a term
  int32_t* entries;             // (table): numbers of sets by hash, open addressing, or kNoSet
  int32_t *term, *kept, *best;  // (terms): numbers of sets, in the order of the terms
  double* best_coef;            // (terms)

  // A fit: the terms of each bin, and conjugate gradients.
  int64_t* start;    // (bins + 1)
  int32_t* fill;     // (bins + 1)
  int32_t* members;  // (groups terms): of bin after bin, places in `term`, ascending
  double *x, *step, *slope, *turned;  // (terms)
  double* part;                       // (terms, groups)

  // Candidates.
  int32_t* jobs;       // (bins groups, 2)
  double* ratio;       // (slots)
  int32_t* slot_key;   // (slots, 1 + t)
  uint32_t* found_in;  // (slots): groups
  int32_t* found;      // (slots): candidates' slots as they came
  int32_t* ranked;     // (slots): likeliest first
  int32_t* done;       // (slots): by rank
  int32_t* fresh;      // (slots): by rank, the number of a set that became a term, or kNoSet
  int32_t* unlisted;   // (slots): by rank, the number of a set that is not in the table yet
  int32_t* pool;       // (kMaxPool)
  int32_t* marks;      // (n)
  int64_t* counters;   // (kCounters + 256)
};

enum Counter {
  kSets,
  kJobs,
  kFound,
  kTaken,
  kFresh,
  kPending,
  kPendingToo,
  kDigit,
  kBelow,
  kCounters
};

inline PeelSpace peel_space(const PeelProblem& q, Arena& arena) {
  PeelSpace s{};
  s.bins = int64_t{q.groups} << q.b;
  s.terms = capacity(q);
  s.sets = std::min<int64_t>(2 * s.terms, INT32_MAX);  // more terms have no numbers
  s.slots = std::max<int64_t>(s.bins * q.groups, 1 << 16);
  for (s.table = 1; s.table < 2 * s.sets;) s.table *= 2;
  const int64_t readings = s.bins * q.shifts, t = q.code.t;

  s.pieces = arena.take<double>(kTeamPieces);
  s.target = arena.take<double>(readings);
  s.residual = arena.take<double>(readings);
  s.image = arena.take<double>(readings);
  s.energy = arena.take<double>(s.bins);
  s.before = arena.take<double>(s.bins);
  s.stale = arena.take<int32_t>(s.bins);
  s.owner = arena.take<int32_t>(s.bins);
  s.partner = arena.take<int32_t>(s.bins * q.groups);

  s.key = arena.take<int32_t>(s.sets * (1 + t));
  s.set_bin = arena.take<int32_t>(s.sets * q.groups);
  s.set_bits = arena.take<uint64_t>(s.sets * q.code.words);
  s.coef = arena.take<double>(s.sets);
  s.drops = arena.take<int32_t>(s.sets);
  s.in = arena.take<int32_t>(s.sets);
  s.entries = arena.take<int32_t>(s.table);
  s.term = arena.take<int32_t>(s.terms);
  s.kept = arena.take<int32_t>(s.terms);
  s.best = arena.take<int32_t>(s.terms);
  s.best_coef = arena.take<double>(s.terms);

  s.start = arena.take<int64_t>(s.bins + 1);
  s.fill = arena.take<int32_t>(s.bins + 1);
  s.members = arena.take<int32_t>(s.terms * q.groups);
  s.x = arena.take<double>(s.terms);
  s.step = arena.take<double>(s.terms);
  s.slope = arena.take<double>(s.terms);
  s.turned = arena.take<double>(s.terms);
  s.part = arena.take<double>(s.terms * q.groups);

  s.jobs = arena.take<int32_t>(2 * s.bins * q.groups);
  s.ratio = arena.take<double>(s.slots);
  s.slot_key = arena.take<int32_t>(s.slots * (1 + t));
  s.found_in = arena.take<uint32_t>(s.slots);
  s.found = arena.take<int32_t>(s.slots);
  s.ranked = arena.take<int32_t>(s.slots);
  s.done = arena.take<int32_t>(s.slots);
  s.fresh = arena.take<int32_t>(s.slots);
  s.unlisted = arena.take<int32_t>(s.slots);
  s.pool = arena.take<int32_t>(kMaxPool);
  s.marks = arena.take<int32_t>(q.code.n);
  s.counters = arena.take<int64_t>(kCounters + 256);
  return s;
}

// The table of sets.
class KnownSets {
 public:
  __device__ KnownSets(const PeelProblem& q, const PeelSpace& s) : q_(q), s_(s) {}

  __device__ int32_t* key(int64_t set) const { return s_.key + set * (1 + q_.code.t); }
  __device__ const int32_t* bins(int64_t set) const { return s_.set_bin + set * q_.groups; }
  __device__ const uint64_t* bits(int64_t set) const { return s_.set_bits + set * q_.code.words; }
  __device__ int64_t bin(int64_t set, int g) const { return (int64_t{g} << q_.b) + bins(set)[g]; }

  // The number of a set, or kNoSet.
  __device__ int32_t find(const int32_t* key) const {
    for (int64_t at = hash(key);; ++at) {
      const int32_t set = s_.entries[at & (s_.table - 1)];
      if (set == kNoSet || same(this->key(set), key)) return set;
    }
  }

  // Writes all that is known of a new set under a number of its own. Until `list` it is not found.
  __device__ int32_t add(const int32_t* key) const {
    const int64_t set = static_cast<int64_t>(
        atomicAdd(reinterpret_cast<unsigned long long*>(s_.counters + kSets), 1ULL));
    for (int i = 0; i <= q_.code.t; ++i) this->key(set)[i] = key[i];
    place_set(q_, key + 1, key[0], s_.set_bin + set * q_.groups, s_.set_bits + set * q_.code.words);
    s_.coef[set] = 0;
    s_.drops[set] = s_.in[set] = 0;
    return static_cast<int32_t>(set);
  }

  // At once only with other calls of list, and of different sets.
  __device__ void list(int32_t set) const {
    for (int64_t at = hash(key(set));; ++at)
      if (atomicCAS(s_.entries + (at & (s_.table - 1)), int32_t{kNoSet}, set) == kNoSet) return;
  }

 private:
  __device__ int64_t hash(const int32_t* key) const {
    uint64_t hash = 0;
    for (int i = 0; i <= key[0]; ++i) {
      hash = (hash ^ static_cast<uint64_t>(key[i])) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return static_cast<int64_t>(hash & static_cast<uint64_t>(s_.table - 1));
  }
  __device__ bool same(const int32_t* a, const int32_t* b) const {
    for (int i = 0; i <= q_.code.t; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }

  const PeelProblem& q_;
  const PeelSpace& s_;
};

}  // namespace spex
