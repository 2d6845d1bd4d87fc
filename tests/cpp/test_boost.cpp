#include <cmath>

#include "boost.h"
#include "check.h"

using namespace spex_test;

namespace {

struct Case {
  int64_t samples, rows, n;
  spex::BoostSettings settings;
};

int bit(const std::vector<uint64_t>& masks, int64_t words, int64_t row, int64_t feature) {
  return masks[row * words + feature / 64] >> (feature % 64) & 1;
}

// The prediction of all trees for one row, node by node.
double walk(const spex::BoostedTrees& forest, const std::vector<uint64_t>& masks, int64_t words,
            int64_t row) {
  double sum = forest.bias;
  for (int32_t node : forest.roots) {
    for (int32_t f; (f = forest.feature[node]) >= 0;)
      node = bit(masks, words, row, f) ? forest.present[node] : forest.absent[node];
    sum += forest.value[node];
  }
  return sum;
}

bool same(const spex::BoostedTrees& a, const spex::BoostedTrees& b) {
  return a.roots == b.roots && a.feature == b.feature && a.absent == b.absent &&
         a.present == b.present && a.value == b.value && a.bias == b.bias;
}

// Three fits, one of them to a bag: the same from every way to run, staged predictions are those of
// the trees, and the error falls.
void check_case(const Case& c) {
  const int64_t words = (c.n + 63) / 64, row_words = (c.rows + 63) / 64;
  auto masks = random_words(c.rows * words, 1);
  for (int64_t row = 0; c.n % 64 && row < c.rows; ++row)
    masks[row * words + words - 1] &= (uint64_t{1} << (c.n % 64)) - 1;
  std::vector<uint64_t> all(row_words, 0), bag(row_words, 0);
  for (int64_t i = 0; i < c.samples; ++i) {
    all[i / 64] |= uint64_t{1} << (i % 64);
    if (i % 3) bag[i / 64] |= uint64_t{1} << (i % 64);
  }
  auto values = random_integers<double>(c.samples, 2);
  for (int64_t i = 0; i < c.samples; ++i) values[i] += 20 * bit(masks, words, i, c.n / 2);

  const int32_t stages[] = {0, 3, c.settings.trees};
  const spex::BoostProblem problem{masks.data(), c.samples, c.rows, c.n, stages, 3, 5};
  const std::vector<spex::BoostSettings> settings(3, c.settings);
  const std::vector<const double*> targets(3, values.data());
  const std::vector<const uint64_t*> bags = {all.data(), bag.data(), all.data()};
  std::vector<spex::BoostedTrees> first;
  std::vector<double> predicted;
  for_each_way([&](spex::Isa isa, int threads) {
    auto staged = garbage<double>(3 * 3 * c.rows);
    const auto forests =
        spex::boost_cpu(problem, settings, targets, bags, staged.data(), isa, threads);
    if (first.empty()) first = forests, predicted = staged;
    CHECK(staged == predicted && same(forests[0], first[0]) && same(forests[1], first[1]),
          "boost samples=%ld n=%ld isa=%d threads=%d", long(c.samples), long(c.n), int(isa),
          threads);
  });

  double before = 0.0, after = 0.0;
  for (int64_t row = 0; row < c.rows; ++row) {
    const double got = predicted[2 * c.rows + row];
    CHECK(std::abs(got - walk(first[0], masks, words, row)) < 1e-9, "boost: row %ld", long(row));
    if (row >= c.samples) continue;
    before += std::pow(values[row] - predicted[row], 2);
    after += std::pow(values[row] - got, 2);
  }
  CHECK(c.samples < 60 || after < 0.8 * before, "boost: error %g of %g", after, before);
}

}  // namespace

void test_boost() {
  const spex::BoostSettings plain{10, 5, 31, 5, 0.3, 0.0, 1.0, 1.0};
  const spex::BoostSettings deep{10, 40, 12, 1, 1.0, 0.5, 0.7, 0.9};
  check_case({2, 2, 1, plain});
  check_case({60, 64, 63, plain});
  check_case({64, 65, 64, deep});
  check_case({100, 129, 200, plain});
  check_case({700, 700, 321, deep});
  check_case({1100, 1200, 130, plain});
}
