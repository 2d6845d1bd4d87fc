#include <algorithm>
#include <cmath>
#include <map>

#include "bits.h"
#include "check.h"
#include "superset_sums.h"

using namespace spex_test;

namespace {

std::vector<int32_t> members(const uint64_t* support, int64_t words) {
  std::vector<int32_t> out;
  for (int32_t j = 0; j < 64 * words; ++j)
    if (support[j / 64] >> (j % 64) & 1) out.push_back(j);
  return out;
}

// Sums by a map, subsets by the bits of a number; whole numbers, so exact.
void check_sums(int64_t terms, int64_t words, int order, int64_t columns) {
  std::vector<uint64_t> support = random_words(terms * words, 1);
  for (uint64_t& word : support) word &= word << 1 & word << 2 & 0x3FF0000000000FFF;
  const auto coefs = random_integers<double>(terms, 2);
  const auto weights = random_integers<double>(order * columns, 3);
  std::map<std::vector<int32_t>, double> expected;
  for (int64_t i = 0; i < terms; ++i) {
    const auto k = members(support.data() + i * words, words);
    for (uint64_t bits = 1; bits < uint64_t{1} << k.size(); ++bits) {
      std::vector<int32_t> set;
      for (size_t j = 0; j < k.size(); ++j)
        if (bits >> j & 1) set.push_back(k[j]);
      const auto d = static_cast<int64_t>(k.size()), s = static_cast<int64_t>(set.size());
      if (s <= order && d < columns) expected[set] += weights[(s - 1) * columns + d] * coefs[i];
    }
  }
  const int64_t there = std::count_if(expected.begin(), expected.end(),
                                      [](const auto& entry) { return entry.second != 0; });
  const spex::SupersetSums found(
      {support.data(), coefs.data(), terms, words, weights.data(), order, columns});
  CHECK(found.size() == there, "%ld of %ld", long(found.size()), long(there));
  auto sets = garbage<int32_t>(there * order);
  auto sums = garbage<double>(there);
  found.write(sets.data(), sums.data());
  for (int64_t i = 0; i < there; ++i) {
    std::vector<int32_t> set(sets.data() + i * order, sets.data() + (i + 1) * order);
    CHECK(!i || std::fabs(sums[i]) <= std::fabs(sums[i - 1]), "row %ld", long(i));
    set.erase(std::find(set.begin(), set.end(), -1), set.end());
    CHECK(expected.at(set) == sums[i], "row %ld of %ld terms", long(i), long(terms));
  }
}

}  // namespace

void test_superset_sums() {
  for (int64_t terms : {0, 1, 2, 63, 200})
    for (int64_t words : {1, 2, 3})
      for (int order : {1, 2, 5}) check_sums(terms, words, order, order + 3);
}
