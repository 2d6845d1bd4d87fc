#include "peel_search.h"

#include <algorithm>

#include "threads.h"

namespace spex {

std::vector<Candidate> PeelSearch::decoded(const Stage& stage, std::vector<char>& stale) const {
  const double variance = bins_.noise();
  const double least = variance * (q_.shifts + stage.screen * std::sqrt(2.0 * q_.shifts));
  std::vector<int64_t> live;
  for (int64_t bin = 0; bin < bins_.size(); ++bin)
    if (bins_.energy(bin) > least) live.push_back(bin);

  std::vector<Job> jobs;
  if (stage.kind == Stage::pairs) {
    jobs = correlated(live, stale);
  } else {
    for (const int64_t bin : live)
      if (stale[bin]) jobs.push_back({bin, bin});
  }
  std::fill(stale.begin(), stale.end(), 0);
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
std::vector<PeelSearch::Job> PeelSearch::correlated(const std::vector<int64_t>& live,
                                                    const std::vector<char>& stale) const {
  const double width = double(int64_t{1} << q_.b);
  const double least = std::sqrt(2 * std::log(width));  // the most that B noises reach
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
  const auto skip = [&](const Job& job) { return job[0] < 0 || !(stale[job[0]] || stale[job[1]]); };
  best.erase(std::remove_if(best.begin(), best.end(), skip), best.end());
  std::sort(best.begin(), best.end());
  best.erase(std::unique(best.begin(), best.end()), best.end());
  return best;
}

// The likeliest of the sets that the job's readings decode to and that fall in the job's bins.
Candidate PeelSearch::decode(const Job& job, int flips) const {
  const bool pair = job[0] != job[1];
  Candidate best;
  for (const int64_t bin : job) best.groups |= uint32_t{1} << bins_.group_of(bin);
  best.bound = pair ? kAcceptPair : kAcceptSingle;
  std::vector<double> readings(bins_.readings(job[0]), bins_.readings(job[0]) + q_.shifts);
  if (pair)
    for (int p = 0; p < q_.shifts; ++p) readings[p] += bins_.readings(job[1])[p];
  chase_decode(q_.code, readings.data(), flips, [&](const int32_t* features, int count) {
    if (count > q_.degree) return;
    for (const int64_t bin : job)
      if (!falls_in(q_, features, count, bin)) return;
    const Term term = bins_.place(features, count);
    if (best.found && term.key == best.key) return;
    const double ratio = bins_.ratio(term, bins_.estimate(term, best.groups), kAllGroups);
    if (best.found && ratio <= best.ratio) return;
    best.found = true;
    best.key = term.key;
    best.ratio = ratio;
  });
  return best;
}

std::vector<Candidate> PeelSearch::nearby(const std::vector<Term>& terms) const {
  const std::vector<int32_t> pool = features_at_hand(terms);
  std::vector<double> pool_signs(pool.size() * q_.shifts);
  for (size_t i = 0; i < pool.size(); ++i)
    fill_signs(bins_.place(&pool[i], 1), q_.shifts, pool_signs.data() + i * q_.shifts);
  std::vector<Key> bases{Key{}};
  for (const int32_t i : pool) bases.push_back(Key{1, i});
  for (const Term& term : terms)
    if (term.count() > 1) bases.push_back(term.key);
  const double bound = std::log(double(bases.size() * pool.size() + 1)) + kAcceptNearby;

  std::vector<std::vector<Candidate>> found(bases.size());
  const int64_t readings = bases.size() * pool.size() * q_.groups * q_.shifts;
  parallel_for(bases.size(), threads_worth(readings / 3, threads_), [&](int64_t k) {
    const Term base = bins_.place(bases[k].data() + 1, bases[k][0]);
    std::vector<double> signs(q_.shifts);
    fill_signs(base, q_.shifts, signs.data());
    for (size_t i = 0; i < pool.size(); ++i) {
      if (base.count() == 1 && pool[i] <= base.key[1]) continue;  // each pair once
      Candidate candidate;
      candidate.ratio =
          nearby_ratio(base, signs.data(), pool_signs.data() + i * q_.shifts, pool[i]);
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

// Half the square of what would be a standard normal were the set, base with the feature toggled,
// no term: its sum over each bin, weighted by how quiet the bin is.
double PeelSearch::nearby_ratio(const Term& base, const double* signs, const double* other,
                                int32_t feature) const {
  double sum = 0, weight = 0;
  for (int g = 0; g < q_.groups; ++g) {
    const int64_t bin = bins_.bin_of(base, g) ^ q_.hash[g * q_.code.n + feature];
    const double energy = bins_.energy(bin) + q_.shifts * q_.floor * q_.floor;
    sum += dot3_(signs, other, bins_.readings(bin), q_.shifts) / energy;
    weight += 1 / energy;
  }
  return sum * sum / weight / 2;
}

// All features where their pairs are few enough to try, else those of the terms found.
std::vector<int32_t> PeelSearch::features_at_hand(const std::vector<Term>& terms) const {
  std::vector<int32_t> pool;
  if (q_.code.n <= kMaxPool) {
    for (int32_t i = 0; i < q_.code.n; ++i) pool.push_back(i);
    return pool;
  }
  for (const Term& term : terms)
    pool.insert(pool.end(), term.features(), term.features() + term.count());
  std::sort(pool.begin(), pool.end());
  pool.erase(std::unique(pool.begin(), pool.end()), pool.end());
  if (pool.size() > static_cast<size_t>(kMaxPool)) pool.resize(kMaxPool);
  return pool;
}

// out = base with the feature put in or taken out; false if that is too many.
bool PeelSearch::toggle(const Key& base, int32_t feature, Key& out) const {
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

}  // namespace spex
