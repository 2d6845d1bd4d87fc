#include "peel.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "peel_search.h"
#include "threads.h"

namespace spex {
namespace {

class Peeler {
 public:
  Peeler(const PeelProblem& problem, Isa isa, int threads)
      : q_(problem),
        bins_(problem),
        search_(problem, bins_, isa, threads),
        stale_(bins_.size(), 1) {}

  std::vector<Term> run(int chase) {
    const Stages stages = peel_stages(chase);
    bool later = false;  // found something after the last look nearby
    bool grown = false;  // low orders were tried
    int stage = 0;
    for (int round = 0; round < kMaxRounds; ++round) {
      if (take(look(stages.at[stage]))) {
        later = later || stage > stages.nearby;
        continue;
      }
      if (refit()) continue;
      if (++stage == stages.count) {
        if (chase > 0 && !std::exchange(grown, true) && add_low_orders()) later = true;
        if (!later) break;
        later = false;
        stage = stages.nearby;
      }
      std::fill(stale_.begin(), stale_.end(), 1);
    }
    refit();
    std::sort(terms_.begin(), terms_.end(),
              [](const Term& a, const Term& b) { return a.key < b.key; });
    return terms_;
  }

 private:
  std::vector<Candidate> look(const Stage& stage) {
    return stage.kind == Stage::nearby ? search_.nearby(terms_) : search_.decoded(stage, stale_);
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
      if (order == q_.degree) break;
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

  const PeelProblem q_;
  PeelBins bins_;
  const PeelSearch search_;
  std::vector<char> stale_;  // bins that changed since they were last decoded
  std::vector<Term> terms_;
  std::map<Key, size_t> index_;  // of the terms
  std::map<Key, int> drops_;     // how often a refit dropped a set
  bool fitted_ = true;
};

}  // namespace

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

void peel_many_cpu(const PeelProblem& problem, int64_t outputs, const double* floors, int chase,
                   int32_t* features, double* coefs, int64_t* counts, Isa isa, int threads) {
  const int64_t most = capacity(problem);
  const int64_t readings = (int64_t{problem.groups} * problem.shifts) << problem.b;
  const int each = static_cast<int>(std::max<int64_t>(1, threads / std::max<int64_t>(1, outputs)));
  parallel_for(outputs, threads, [&](int64_t i) {
    PeelProblem own = problem;
    own.bins += i * readings;
    own.floor = floors[i];
    counts[i] = peel_cpu(own, chase, features + i * most * own.code.t, coefs + i * most, isa, each);
  });
}

}  // namespace spex
