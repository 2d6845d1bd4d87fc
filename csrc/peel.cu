// The loop of peeling as one kernel that stays on the device until it is done: its blocks are all
// resident and wait for one another. The rules are those of peel.cpp.
#include <algorithm>

#include "peel.h"
#include "peel_fit.cuh"
#include "peel_look.cuh"
#include "peel_take.cuh"

namespace spex {
namespace {

constexpr int kThreads = 256;  // of a block

// n over k, where it is small.
__device__ int64_t choose(int64_t n, int k) {
  if (k > n) return 0;
  int64_t ways = 1;
  for (int i = 0; i < k; ++i) ways = ways * (n - i) / (i + 1);
  return ways;
}

// The i-th of the sets of `size` features, as a key.
__device__ void nth_set(int64_t i, int64_t n, int size, int t, int32_t* key) {
  key[0] = size;
  for (int at = 1; at <= t; ++at) key[at] = 0;
  int32_t feature = 0;
  for (int at = 1; at <= size; ++at, ++feature) {
    for (int64_t ways; (ways = choose(n - 1 - feature, size - at)) <= i; ++feature) i -= ways;
    key[at] = feature;
  }
}

class DevicePeeler {
 public:
  __device__ DevicePeeler(const Team& team, const PeelProblem& q, const PeelSpace& s)
      : team_(team),
        q_(q),
        s_(s),
        sets_(q, s),
        fit_(team, q, s),
        look_(team, q, s),
        take_(team, q, s) {}

  // Leaves the terms in s.term and returns their number.
  __device__ int64_t run(int chase) {
    begin();
    const Stages stages = peel_stages(chase);
    bool later = false;  // found something after the last look nearby
    bool grown = false;  // low orders were tried
    int stage = 0;
    for (int round = 0; round < kMaxRounds; ++round) {
      double bound;
      const int64_t candidates = look_.look(stages.at[stage], terms_, bound);
      if (take_.take(candidates, bound, terms_)) {
        fitted_ = false;
        later = later || stage > stages.nearby;
        continue;
      }
      if (refit()) continue;
      if (++stage == stages.count) {
        if (chase > 0 && !grown) {
          grown = true;
          if (add_low_orders()) later = true;
        }
        if (!later) break;
        later = false;
        stage = stages.nearby;
      }
      team_.each(s_.bins, [&](int64_t bin) { s_.stale[bin] = 1; });
    }
    refit();
    return terms_;
  }

 private:
  __device__ void begin() {
    const int64_t width = int64_t{1} << q_.b;
    team_.share(s_.bins * q_.shifts, [&](int64_t i) {
      const int64_t bin = i / q_.shifts, p = i % q_.shifts, g = bin >> q_.b;
      s_.target[i] = s_.residual[i] = q_.bins[(g * q_.shifts + p) * width + (bin & (width - 1))];
    });
    team_.share(s_.table, [&](int64_t at) { s_.entries[at] = kNoSet; });
    if (team_.first()) s_.counters[kSets] = 0;
    team_.wait();
    team_.each(s_.bins, [&](int64_t bin) {
      s_.stale[bin] = 1;
      s_.energy[bin] = sum_of_squares(s_.residual + bin * q_.shifts, q_.shifts);
    });
  }

  // Least squares over all bins; drops the terms that are not significant and fits the rest again.
  // Returns false where nothing changed since the last time.
  __device__ bool refit() {
    if (fitted_) return false;
    fitted_ = true;
    team_.each(s_.bins, [&](int64_t bin) { s_.before[bin] = s_.energy[bin]; });
    const double least = kSignificant * fit_.least_squares(terms_);
    const auto strong = [&](int64_t s) { return fabs(s_.coef[s_.term[s]]) >= least; };
    const int64_t kept = team_.select(
        terms_, strong, [&](int64_t s, int64_t place) { s_.kept[place] = s_.term[s]; });
    if (kept < terms_) {
      team_.each(terms_, [&](int64_t s) {
        if (strong(s)) return;
        ++s_.drops[s_.term[s]];
        s_.in[s_.term[s]] = 0;
      });
      team_.each(kept, [&](int64_t s) { s_.term[s] = s_.kept[s]; });
      terms_ = kept;
      fit_.least_squares(terms_);
    }
    team_.each(s_.bins, [&](int64_t bin) {
      if (fabs(s_.energy[bin] - s_.before[bin]) > kSettled * s_.before[bin]) s_.stale[bin] = 1;
    });
    return true;
  }

  // Adds all sets up to some order to the terms where that is worth its parameters by generalised
  // cross-validation; returns whether it did.
  __device__ bool add_low_orders() {
    double least = score(terms_);
    int64_t all = terms_, best = terms_;
    keep_best(best);
    double level = 1;  // sets of `order` features
    for (int order = 0; order <= q_.degree; ++order) {
      all += append(all, static_cast<int64_t>(level), order);
      if (order > 0) {
        fit_.least_squares(all);
        const double reached = score(all);
        if (reached < least) {
          least = reached;
          best = all;
          keep_best(best);
        }
      }
      if (order == q_.degree) break;
      level = level * (double(q_.code.n) - order) / (order + 1);
      if (double(all) + level > double(s_.terms)) break;
      if (double(s_.counters[kSets]) + level > double(s_.sets)) break;
    }
    const bool grown = best > terms_;
    team_.each(best, [&](int64_t s) {
      s_.term[s] = s_.best[s];
      s_.coef[s_.best[s]] = s_.best_coef[s];
      s_.in[s_.best[s]] = 1;
    });
    terms_ = best;
    fitted_ = false;
    refit();
    return grown;
  }

  // energy / (1 - parameters / readings)^2
  __device__ double score(int64_t parameters) const {
    const double spare = 1 - double(parameters) / (double(s_.bins) * q_.shifts);
    return fit_.total_energy() / (spare * spare);
  }

  __device__ void keep_best(int64_t count) const {
    team_.each(count, [&](int64_t s) {
      s_.best[s] = s_.term[s];
      s_.best_coef[s] = s_.coef[s_.term[s]];
    });
  }

  // Puts those of the `count` sets of an order that are no terms behind the first `all` of s.term;
  // returns how many.
  __device__ int64_t append(int64_t all, int64_t count, int order) const {
    const auto find = [&](int64_t i, int32_t* key) {
      nth_set(i, q_.code.n, order, q_.code.t, key);
      return sets_.find(key);
    };
    int32_t key[kMaxErrors + 1];
    const int64_t added = team_.select(
        count,
        [&](int64_t i) {
          const int32_t set = find(i, key);
          return set == kNoSet || !s_.in[set];
        },
        [&](int64_t i, int64_t place) {
          int32_t set = find(i, key);
          s_.kept[place] = set;
          if (set == kNoSet) set = sets_.add(key);
          s_.term[all + place] = set;
          s_.coef[set] = 0;
        });
    team_.each(added, [&](int64_t i) {
      if (s_.kept[i] == kNoSet) sets_.list(s_.term[all + i]);
    });
    return added;
  }

  const Team& team_;
  const PeelProblem& q_;
  const PeelSpace& s_;
  const KnownSets sets_;
  const DeviceFit fit_;
  const PeelLook look_;
  const PeelTake take_;
  int64_t terms_ = 0;
  bool fitted_ = true;
};

__global__ void __launch_bounds__(kThreads, 1)
    peel_kernel(PeelProblem q, PeelSpace s, int chase, int32_t* features, double* coefs,
                int64_t* count) {
  const Team team(s.pieces);
  const int64_t terms = DevicePeeler(team, q, s).run(chase);
  team.each(terms, [&](int64_t i) {
    const int32_t* key = s.key + int64_t{s.term[i]} * (1 + q.code.t);
    for (int at = 0; at < q.code.t; ++at)
      features[i * q.code.t + at] = at < key[0] ? key[1 + at] : -1;
    coefs[i] = s.coef[s.term[i]];
  });
  if (team.first()) *count = terms;
}

}  // namespace

int64_t peel_cuda_bytes(const PeelProblem& problem) {
  Arena arena(nullptr);
  peel_space(problem, arena);
  return arena.used();
}

void peel_cuda(const PeelProblem& problem, int chase, void* memory, int32_t* features,
               double* coefs, int64_t* count, const Place& place) {
  Arena arena(static_cast<char*>(memory));
  const PeelSpace space = peel_space(problem, arena);
  launch_resident(peel_kernel, ceil_div(space.slots, kThreads), kThreads, place, problem, space,
                  chase, features, coefs, count);
}

}  // namespace spex
