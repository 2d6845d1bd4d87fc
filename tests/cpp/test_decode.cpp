#include <algorithm>
#include <cmath>
#include <map>

#include "chase.h"
#include "check.h"
#include "code.h"
#include "peel.h"

using namespace spex_test;

namespace {

using Set = std::vector<int32_t>;

Set random_set(int size, int64_t n, std::mt19937_64& next) {
  std::set<int32_t> out;
  while (static_cast<int>(out.size()) < size) out.insert(static_cast<int32_t>(next() % n));
  return {out.begin(), out.end()};
}

Set read_set(const int32_t* features, int count) { return {features, features + count}; }

void check_bch(const TestCode& code, int t, int64_t n) {
  const int delays = code.delays();
  std::mt19937_64 next(1);
  std::vector<Set> sets;
  std::vector<double> readings;
  for (int row = 0; row < 130; ++row) {
    sets.push_back(random_set(std::min<int64_t>(row % (t + 1), n), n, next));
    uint64_t bits[spex::kMaxWords];
    spex::delay_bits(code.view(), sets.back().data(), static_cast<int>(sets.back().size()), bits);
    const double scale = row % 2 ? -2.0 : 3.0;
    for (int p = 0; p < delays; ++p) readings.push_back(spex::bit_at(bits, p) ? -scale : scale);
  }
  const int64_t rows = static_cast<int64_t>(sets.size());
  for (const int threads : {1, 2, 7})
    for (const int chase : {0, 1, 5, 16}) {
      if (chase == 16 && threads > 1) continue;  // 2^17 decodings a row
      const int64_t some = chase == 16 ? 2 : rows;
      auto features = garbage<int32_t>(some * t), counts = garbage<int32_t>(some);
      spex::bch_decode_cpu(code.view(), readings.data(), some, chase, features.data(),
                           counts.data(), threads);
      for (int64_t row = 0; row < some; ++row) {
        CHECK(counts[row] == static_cast<int32_t>(sets[row].size()), "row %ld", long(row));
        CHECK(read_set(features.data() + row * t, counts[row]) == sets[row], "row %ld chase %d",
              long(row), chase);
      }
    }
}

void check_peel(const TestCode& code, int t, int64_t n, int groups, int b, int terms, int chase,
                double noise) {
  std::mt19937_64 next(7);
  std::normal_distribution<double> normal;
  std::vector<int32_t> hash(groups * n);
  for (int32_t& row : hash) row = static_cast<int32_t>(next() % (uint64_t{1} << b));
  std::map<Set, double> planted;
  for (int s = 0; s < terms; ++s) {
    const Set set = random_set(s % (t + 1), n, next);
    planted[set] = (s % 2 ? -1.0 : 1.0) * (1.0 + double(s) / terms);
  }
  const int shifts = code.delays();
  std::vector<double> bins(int64_t{groups} * shifts << b);
  for (double& u : bins) u = noise * normal(next);
  for (const auto& [set, coef] : planted) {
    uint64_t bits[spex::kMaxWords];
    spex::delay_bits(code.view(), set.data(), static_cast<int>(set.size()), bits);
    for (int g = 0; g < groups; ++g) {
      int32_t bin = 0;
      for (const int32_t i : set) bin ^= hash[g * n + i];
      for (int p = 0; p < shifts; ++p)
        bins[((int64_t{g} * shifts + p) << b) + bin] += spex::bit_at(bits, p) ? -coef : coef;
    }
  }
  const spex::PeelProblem problem{code.view(), groups,      shifts, b,
                                  hash.data(), bins.data(), t,      1e-12};
  for_each_way([&](spex::Isa isa, int threads) {
    auto features = garbage<int32_t>(spex::capacity(problem) * t);
    auto coefs = garbage<double>(spex::capacity(problem));
    const int64_t found =
        spex::peel_cpu(problem, chase, features.data(), coefs.data(), isa, threads);
    CHECK(found == static_cast<int64_t>(planted.size()), "found %ld of %ld, chase %d", long(found),
          long(planted.size()), chase);
    for (int64_t s = 0; s < found; ++s) {
      const int32_t* row = features.data() + s * t;
      const auto at =
          planted.find(read_set(row, static_cast<int>(std::find(row, row + t, -1) - row)));
      CHECK(at != planted.end(), "term %ld was not planted", long(s));
      CHECK(std::abs(at->second - coefs[s]) < 1e-9 + noise, "term %ld: %g", long(s), coefs[s]);
    }
  });
}

}  // namespace

void test_decode() {
  const TestCode tiny(2, 0x7, 1, 1), small(6, 0x43, 3, 40), large(9, 0x211, 5, 460);
  check_bch(tiny, 1, 1);
  check_bch(small, 3, 40);
  check_bch(large, 5, 460);
  for (const int chase : {0, 6}) {
    check_peel(small, 3, 40, 3, 4, 8, chase, 0.0);
    check_peel(small, 3, 40, 4, 5, 20, chase, 0.05);
    check_peel(large, 5, 460, 3, 6, 30, chase, 0.05);
    check_peel(small, 3, 40, 3, 4, 0, chase, 0.0);
  }
}
