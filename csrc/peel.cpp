#include "peel.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "dot3.h"
#include "peel_bins.h"
#include "threads.h"

namespace spex {
namespace {

// Log likelihood ratios a set must reach by the groups that had no part in finding it.
constexpr double kAcceptSingle = 5.0;
constexpr double kAcceptPair = 2.0;    // it matched two bin indices already
constexpr double kAcceptNearby = 2.0;  // beyond the logarithm of the number of sets tried

constexpr double kSignificant = 4.5;  // standard errors a fitted coefficient must be from zero
constexpr size_t kMaxPool = 1024;     // features whose pairs are tried
constexpr double kSettled = 0.02;  // a bin whose energy a refit moved by less is not decoded again
constexpr int kMaxDrops = 2;       // times a set may be found and dropped before it is left alone
constexpr int kMaxRounds = 200;
constexpr uint32_t kAllGroups = ~uint32_t{0};

// One way of looking for terms, tried when all before it find nothing.
struct Stage {
  enum Kind { single, pairs, nearby } kind;
  int flips;      // of the Chase decoder
  double screen;  // standard deviations above the noise a bin's energy must be to be decoded
};

struct Candidate {
  bool found = false;
  Key key{};
  uint32_t groups = 0;  // bit g: found in a bin of group g
  double ratio = 0;     // log likelihood ratio by all groups
  double bound = 0;     // what the other groups' must reach
};

using Job = std::array<int64_t, 2>;  // a bin twice, or two bins of different groups

class Peeler {
 public:
  Peeler(const PeelProblem& problem, Isa isa, int threads)
      : q_(problem),
        threads_(threads),
        dot3_(dot3_for(isa)),
        bins_(problem),
        stale_(bins_.size(), 1) {}

  std::vector<Term> run(int chase) {
    std::vector<Stage> stages{{Stage::single, 0, 3.0}};
    for (int flips = 3; flips < chase; flips += 3) stages.push_back({Stage::single, flips, 2.0});
    const size_t nearby = stages.size();
    if (chase > 0) {
      stages.push_back({Stage::nearby, 0, 0.0});
      stages.push_back({Stage::single, chase, 1.0});
      stages.push_back({Stage::pairs, chase, 0.0});
    }
    bool later = false;  // found something after the last look nearby
    bool grown = false;  // low orders were tried
    size_t stage = 0;
    for (int round = 0; round < kMaxRounds; ++round) {
      if (take(candidates(stages[stage]))) {
        later = later || stage > nearby;
        continue;
      }
      if (refit()) continue;
      if (++stage == stages.size()) {
        if (chase > 0 && !std::exchange(grown, true) && add_low_orders()) later = true;
        if (!later) break;
        later = false;
        stage = nearby;
      }
      std::fill(stale_.begin(), stale_.end(), 1);
    }
    refit();
    std::sort(terms_.begin(), terms_.end(),
              [](const Term& a, const Term& b) { return a.key < b.key; });
    return terms_;
  }

 private:
  // Adds all sets up to some order to the terms where that is worth its parameters by generalised
  // cross-validation, without those that are not significant; returns whether it did. Many
  // functions are a sum of small effects of low order, too small to be seen one by one among the
  // others.
  bool add_low_orders() {
    const auto score = [&](size_t parameters) {  // energy / (1 - parameters / readings)^2
      const double spare = 1 - double(parameters) / (double(bins_.size()) * q_.shifts);
      return bins_.total_energy() / (spare * spare);
    };
    double least = score(terms_.size());
    std::vector<Term> all = terms_, best = terms_;
    std::vector<Key> level{Key{}};
    for (int order = 0; order <= q_.degree; ++order) {
      for (const Key& key : level)
        if (!index_.count(key)) all.push_back(bins_.place(key.data() + 1, order));
      if (order > 0) {
        bins_.least_squares(all);
        if (score(all.size()) < least) {
          least = score(all.size());
          best = all;
        }
      }
      const double next = double(level.size()) * (double(q_.code.n) - order) / (order + 1);
      if (double(all.size()) + next > double(capacity(q_))) break;
      level = extended(level);
    }
    const bool grown = best.size() > terms_.size();
    terms_ = best;
    fitted_ = false;
    refit();
    return grown;
  }

  // Every set of the level with one feature more behind its last.
  std::vector<Key> extended(const std::vector<Key>& level) const {
    std::vector<Key> out;
    for (Key key : level) {
      const int size = key[0]++;
      for (int32_t i = size ? key[size] + 1 : 0; i < q_.code.n; ++i) {
        key[size + 1] = i;
        out.push_back(key);
      }
    }
    return out;
  }

  std::vector<Candidate> candidates(const Stage& stage) {
    if (stage.kind == Stage::nearby) return nearby();
    const double variance = bins_.noise();
    const double least = variance * (q_.shifts + stage.screen * std::sqrt(2.0 * q_.shifts));
    std::vector<int64_t> live;
    for (int64_t bin = 0; bin < bins_.size(); ++bin)
      if (bins_.energy(bin) > least) live.push_back(bin);

    std::vector<Job> jobs;
    if (stage.kind == Stage::pairs) {
      jobs = correlated(live);
    } else {
      for (const int64_t bin : live)
        if (stale_[bin]) jobs.push_back({bin, bin});
    }
    std::fill(stale_.begin(), stale_.end(), 0);
    std::vector<Candidate> out(jobs.size());
    constexpr int64_t kBlock = 16;
    const int64_t nanoseconds = jobs.size() * (kDecodeNanoseconds << stage.flips);
    const int threads = threads_worth(nanoseconds, threads_);
    parallel_for(ceil_div(jobs.size(), kBlock), threads, [&](int64_t block) {
      const int64_t end = std::min<int64_t>(jobs.size(), (block + 1) * kBlock);
      for (int64_t i = block * kBlock; i < end; ++i) out[i] = decode(jobs[i], stage.flips);
    });
    return out;
  }

  // For each live bin and each other group, the bin there whose readings correlate best with its
  // own, if they do and one of the two is stale: they are likely to share a term, and their sum
  // shows it 3 dB clearer.
  std::vector<Job> correlated(const std::vector<int64_t>& live) const {
    const double least =
        std::sqrt(2 * std::log(double(int64_t{1} << q_.b)));  // the most B noises reach
    const std::vector<double> ones(q_.shifts, 1.0);
    std::vector<Job> best(live.size() * q_.groups, Job{-1, -1});
    const int64_t readings = live.size() * live.size() * q_.shifts;  // a third of a nanosecond each
    parallel_for(live.size(), threads_worth(readings / 3, threads_), [&](int64_t a) {
      const int64_t bin = live[a];
      std::array<double, kMaxGroups> most;
      most.fill(least);
      for (const int64_t other : live) {
        const int g = bins_.group_of(other);
        if (g == bins_.group_of(bin)) continue;
        const double inner =
            dot3_(bins_.readings(bin), bins_.readings(other), ones.data(), q_.shifts);
        const double z = inner / std::sqrt(bins_.energy(bin) * bins_.energy(other) / q_.shifts);
        if (z <= most[g]) continue;
        most[g] = z;
        best[a * q_.groups + g] = {std::min(bin, other), std::max(bin, other)};
      }
    });
    const auto skip = [&](const Job& job) {
      return job[0] < 0 || !(stale_[job[0]] || stale_[job[1]]);
    };
    best.erase(std::remove_if(best.begin(), best.end(), skip), best.end());
    std::sort(best.begin(), best.end());
    best.erase(std::unique(best.begin(), best.end()), best.end());
    return best;
  }

  // The likeliest of the sets that the job's readings decode to and that fall in the job's bins.
  Candidate decode(const Job& job, int flips) const {
    const bool pair = job[0] != job[1];
    Candidate best;
    for (const int64_t bin : job) best.groups |= uint32_t{1} << bins_.group_of(bin);
    best.bound = pair ? kAcceptPair : kAcceptSingle;
    std::vector<double> readings(bins_.readings(job[0]), bins_.readings(job[0]) + q_.shifts);
    if (pair)
      for (int p = 0; p < q_.shifts; ++p) readings[p] += bins_.readings(job[1])[p];
    chase_decode(q_.code, readings.data(), flips, [&](const int32_t* features, int count) {
      if (count > q_.degree) return false;
      for (const int64_t bin : job)
        if (!falls_in(features, count, bin)) return false;
      const Term term = bins_.place(features, count);
      if (best.found && term.key == best.key) return false;
      const double ratio = bins_.ratio(term, bins_.estimate(term, best.groups), kAllGroups);
      if (best.found && ratio <= best.ratio) return false;
      best.found = true;
      best.key = term.key;
      best.ratio = ratio;
      return false;
    });
    return best;
  }

  bool falls_in(const int32_t* features, int count, int64_t bin) const {
    const int64_t g = bins_.group_of(bin);
    int32_t index = 0;
    for (int i = 0; i < count; ++i) index ^= q_.hash[g * q_.code.n + features[i]];
    return (g << q_.b) + index == bin;
  }

  // Sets that need no decoding because they are few: single features, pairs, and the terms found so
  // far with one feature more or less. Each is tested on all its bins at once.
  std::vector<Candidate> nearby() const {
    const std::vector<int32_t> pool = features_at_hand();
    std::vector<double> pool_signs(pool.size() * q_.shifts);
    for (size_t i = 0; i < pool.size(); ++i) fill_signs(pool[i], pool_signs.data() + i * q_.shifts);
    std::vector<Key> bases{Key{}};
    for (const int32_t i : pool) bases.push_back(Key{1, i});
    for (const Term& term : terms_)
      if (term.count() > 1) bases.push_back(term.key);
    const double bound = std::log(double(bases.size() * pool.size() + 1)) + kAcceptNearby;

    std::vector<std::vector<Candidate>> found(bases.size());
    const int64_t readings = bases.size() * pool.size() * q_.groups * q_.shifts;
    parallel_for(bases.size(), threads_worth(readings / 3, threads_), [&](int64_t k) {
      const Term base = bins_.place(bases[k].data() + 1, bases[k][0]);
      std::vector<double> signs(q_.shifts);
      for (int p = 0; p < q_.shifts; ++p) signs[p] = bit_at(base.bits.data(), p) ? -1.0 : 1.0;
      for (size_t i = 0; i < pool.size(); ++i) {
        if (base.count() == 1 && pool[i] <= base.key[1]) continue;  // each pair once
        double sum = 0, weight = 0;
        for (int g = 0; g < q_.groups; ++g) {
          const int64_t bin = bins_.bin_of(base, g) ^ q_.hash[g * q_.code.n + pool[i]];
          const double energy = bins_.energy(bin) + q_.shifts * q_.floor * q_.floor;
          const double* other = pool_signs.data() + i * q_.shifts;
          sum += dot3_(signs.data(), other, bins_.readings(bin), q_.shifts) / energy;
          weight += 1 / energy;
        }
        Candidate candidate;
        candidate.ratio =
            sum * sum / weight / 2;  // half the square of a standard normal, were there no term
        candidate.bound = bound;
        if (candidate.ratio < bound || !toggle(base.key, pool[i], candidate.key)) continue;
        candidate.found = true;
        found[k].push_back(candidate);
      }
    });
    std::vector<Candidate> out;
    for (const auto& part : found) out.insert(out.end(), part.begin(), part.end());
    return out;
  }

  // All features where their pairs are few enough to try, else those of the terms found.
  std::vector<int32_t> features_at_hand() const {
    std::vector<int32_t> pool;
    if (q_.code.n <= static_cast<int64_t>(kMaxPool)) {
      for (int32_t i = 0; i < q_.code.n; ++i) pool.push_back(i);
      return pool;
    }
    for (const Term& term : terms_)
      pool.insert(pool.end(), term.features(), term.features() + term.count());
    std::sort(pool.begin(), pool.end());
    pool.erase(std::unique(pool.begin(), pool.end()), pool.end());
    if (pool.size() > kMaxPool) pool.resize(kMaxPool);
    return pool;
  }

  void fill_signs(int32_t feature, double* signs) const {
    const uint64_t* bits = q_.code.columns + int64_t{feature} * q_.code.words;
    for (int p = 0; p < q_.shifts; ++p) signs[p] = bit_at(bits, p) ? -1.0 : 1.0;
  }

  // out = base with the feature put in or taken out; false if that is too many.
  bool toggle(const Key& base, int32_t feature, Key& out) const {
    const int32_t* begin = base.data() + 1;
    const int32_t* end = begin + base[0];
    const int32_t* at = std::lower_bound(begin, end, feature);
    const bool in = at != end && *at == feature;
    if (!in && base[0] == q_.degree) return false;
    out = Key{};
    out[0] = base[0] + (in ? -1 : 1);
    int32_t* to = std::copy(begin, at, out.data() + 1);
    if (!in) *to++ = feature;
    std::copy(in ? at + 1 : at, end, to);
    return true;
  }

  // Subtracts the candidates that hold up, likeliest first; returns whether there were any.
  bool take(std::vector<Candidate> list) {
    std::sort(list.begin(), list.end(), [](const Candidate& a, const Candidate& b) {
      return std::tie(b.found, b.ratio, a.key, a.groups) <
             std::tie(a.found, a.ratio, b.key, b.groups);
    });
    bool any = false;
    for (const Candidate& candidate : list) {
      if (!candidate.found) break;
      if (const auto it = drops_.find(candidate.key); it != drops_.end() && it->second >= kMaxDrops)
        continue;
      Term term = bins_.place(candidate.key.data() + 1, candidate.key[0]);
      const double c = bins_.estimate(term, candidate.groups ? candidate.groups : kAllGroups);
      if (bins_.ratio(term, c, ~candidate.groups) < candidate.bound) continue;
      const auto [at, fresh] = index_.try_emplace(term.key, terms_.size());
      if (fresh && static_cast<int64_t>(terms_.size()) == capacity(q_)) {
        index_.erase(at);
        continue;
      }
      term.coef = bins_.estimate(term, kAllGroups);
      bins_.subtract(term);
      for (int g = 0; g < q_.groups; ++g) stale_[bins_.bin_of(term, g)] = 1;
      if (fresh) {
        terms_.push_back(term);
      } else {
        terms_[at->second].coef += term.coef;
      }
      any = true;
    }
    fitted_ = fitted_ && !any;
    return any;
  }

  // Least squares over all bins; drops the terms that are not significant and fits the rest again.
  // Returns false where nothing changed since the last time.
  bool refit() {
    if (fitted_) return false;
    fitted_ = true;
    std::vector<double> before(bins_.size());
    for (int64_t bin = 0; bin < bins_.size(); ++bin) before[bin] = bins_.energy(bin);
    const double error = bins_.least_squares(terms_);
    const auto weak = std::stable_partition(terms_.begin(), terms_.end(), [&](const Term& term) {
      return std::abs(term.coef) >= kSignificant * error;
    });
    if (weak != terms_.end()) {
      for (auto it = weak; it != terms_.end(); ++it) ++drops_[it->key];
      terms_.erase(weak, terms_.end());
      bins_.least_squares(terms_);
    }
    index_.clear();
    for (size_t s = 0; s < terms_.size(); ++s) index_[terms_[s].key] = s;
    for (int64_t bin = 0; bin < bins_.size(); ++bin)
      if (std::abs(bins_.energy(bin) - before[bin]) > kSettled * before[bin]) stale_[bin] = 1;
    return true;
  }

  const PeelProblem q_;
  const int threads_;
  const Dot3 dot3_;
  PeelBins bins_;
  std::vector<char> stale_;  // bins that changed since they were last decoded
  std::vector<Term> terms_;
  std::map<Key, size_t> index_;  // of the terms
  std::map<Key, int> drops_;     // how often a refit dropped a set
  bool fitted_ = true;
};

}  // namespace

int64_t capacity(const PeelProblem& problem) {
  return (int64_t{problem.groups} << problem.b) * std::max(1, problem.shifts / 4);
}

int64_t peel_cpu(const PeelProblem& problem, int chase, int32_t* features, double* coefs, Isa isa,
                 int threads) {
  const std::vector<Term> terms = Peeler(problem, isa, threads).run(chase);
  const int t = problem.code.t;
  for (size_t s = 0; s < terms.size(); ++s) {
    int32_t* out = features + s * t;
    std::fill(std::copy_n(terms[s].features(), terms[s].count(), out), out + t, -1);
    coefs[s] = terms[s].coef;
  }
  return static_cast<int64_t>(terms.size());
}

}  // namespace spex
