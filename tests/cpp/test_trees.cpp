#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "check.h"
#include "set_key.h"
#include "tree_fourier.h"

using namespace spex_test;

namespace {

// Random trees, their nodes in random order.
struct Grown {
  std::vector<int32_t> roots, feature, absent, present;
  std::vector<double> value;
  std::mt19937_64 next;

  Grown(int trees, int depth, int64_t n, uint64_t seed) : next(seed) {
    for (int t = 0; t < trees; ++t) roots.push_back(grow(depth, n));
  }

  int32_t grow(int depth, int64_t n) {
    const bool leaf = depth == 0 || next() % 5 == 0;
    const int32_t absent_side = leaf ? -1 : grow(depth - 1, n);
    const int32_t present_side = leaf ? -1 : grow(depth - 1, n);
    feature.push_back(leaf ? -1 : static_cast<int32_t>(next() % n));
    absent.push_back(absent_side);
    present.push_back(present_side);
    value.push_back(leaf ? static_cast<int>(next() % 19) - 9 : 0);
    return static_cast<int32_t>(feature.size() - 1);
  }

  // A tree that asks every feature of `path` until one is absent: `last` where none is, else 0.
  void chain(const std::vector<int32_t>& path, double last) {
    const auto leaf = [&](double x) {
      feature.push_back(-1), absent.push_back(-1), present.push_back(-1), value.push_back(x);
      return static_cast<int32_t>(feature.size() - 1);
    };
    int32_t below = leaf(last);
    for (size_t i = path.size(); i-- > 0;) {
      const int32_t zero = leaf(0), here = leaf(0);
      feature[here] = path[i], absent[here] = zero, present[here] = below;
      below = here;
    }
    roots.push_back(below);
  }

  double at(int32_t root, uint64_t mask) const {
    while (feature[root] >= 0) root = mask >> feature[root] & 1 ? present[root] : absent[root];
    return value[root];
  }

  spex::Forest forest(int64_t n) const {
    return {roots.data(),
            static_cast<int64_t>(roots.size()),
            feature.data(),
            absent.data(),
            present.data(),
            value.data(),
            n};
  }
};

struct Written {
  std::vector<uint64_t> support;
  std::vector<double> coefs;
};

Written spectrum(const Grown& grown, int64_t n, const std::vector<int32_t>& group, int groups,
                 int64_t limit, int threads) {
  const auto found = spex::tree_fourier_cpu(grown.forest(n), group.empty() ? nullptr : group.data(),
                                            groups, limit, threads);
  Written out{garbage<uint64_t>(found->size() * ((n + 63) / 64)),
              garbage<double>(found->size() * groups)};
  found->write(out.support.data(), out.coefs.data(), threads);
  return out;
}

// 2^-n sum over m of f(m) (-1)^<k, m>, for every k.
void check_definition(int trees, int depth, int64_t n, int groups) {
  const Grown grown(trees, depth, n, 1 + trees + depth);
  std::vector<int32_t> group(trees);
  for (int t = 0; t < trees; ++t) group[t] = t * 7 % groups;
  const uint64_t size = uint64_t{1} << n;
  std::vector<std::vector<double>> expected(size, std::vector<double>(groups));
  for (uint64_t k = 0; k < size; ++k)
    for (uint64_t mask = 0; mask < size; ++mask)
      for (int t = 0; t < trees; ++t)
        expected[k][group[t]] += naive_sign(&mask, &k, 1) * grown.at(grown.roots[t], mask) / size;
  const int64_t terms = std::count_if(expected.begin(), expected.end(), [](const auto& coefs) {
    return std::any_of(coefs.begin(), coefs.end(), [](double c) { return c != 0; });
  });
  for (int threads : {1, 2, 7}) {
    const Written all = spectrum(grown, n, group, groups, -1, threads);
    CHECK(static_cast<int64_t>(all.support.size()) == terms, "trees n=%ld: %zu terms, not %ld",
          long(n), all.support.size(), long(terms));
    for (int64_t i = 0; i < terms; ++i)
      for (int g = 0; g < groups; ++g)
        CHECK(all.coefs[i * groups + g] == expected[all.support[i]][g],
              "trees n=%ld groups=%d threads=%d term=%ld", long(n), groups, threads, long(i));
  }
}

// The same bits for any number of threads, for many blocks, parts and rounds, and with a limit.
void check_threads(int64_t n, int64_t limit) {
  const int trees = 1200, groups = 3;
  const Grown grown(trees, 7, n, n);
  std::vector<int32_t> group(trees);
  for (int t = 0; t < trees; ++t) group[t] = t % groups;
  const Written one = spectrum(grown, n, group, groups, limit, 1);
  CHECK(!one.coefs.empty(), "no terms");
  CHECK(limit < 0 || static_cast<int64_t>(one.coefs.size()) == limit * groups, "limit %ld",
        long(limit));
  for (int threads : {2, 7}) {
    const Written more = spectrum(grown, n, group, groups, limit, threads);
    CHECK(more.support == one.support && more.coefs == one.coefs, "n=%ld threads=%d", long(n),
          threads);
  }
}

// A conjunction of `size` features far apart has all subsets, coefficients +-1.
void check_conjunction(int size, int64_t n) {
  Grown grown(0, 0, n, 0);
  std::vector<int32_t> path(size), many(n);
  for (int i = 0; i < size; ++i) path[i] = static_cast<int32_t>((i * 7919 + 13) % n);
  grown.chain(path, std::ldexp(1.0, size));
  for (int64_t j = 0; j < n; ++j) grown.chain({static_cast<int32_t>(j)}, 0.0);  // wide digits
  const Written found = spectrum(grown, n, {}, 1, -1, 2);
  const int64_t words = (n + 63) / 64, terms = found.coefs.size();
  CHECK(terms == int64_t{1} << size, "conjunction of %d: %ld terms", size, long(terms));
  int before = 0;
  for (int64_t i = 0; i < terms; ++i) {
    int order = 0;
    for (int64_t w = 0; w < words; ++w) order += __builtin_popcountll(found.support[i * words + w]);
    CHECK(order >= before && found.coefs[i] == (order % 2 ? -1 : 1), "conjunction of %d", size);
    before = order;
  }
}

void check_too_large() {
  for (int size : {26, 65}) {
    Grown grown(0, 0, 100, 0);
    std::vector<int32_t> path(size);
    for (int i = 0; i < size; ++i) path[i] = i;
    grown.chain(path, 1.0);
    bool caught = false;
    try {
      spex::tree_fourier_cpu(grown.forest(100), nullptr, 1, -1, 2);
    } catch (const std::length_error&) {
      caught = true;
    }
    CHECK(caught, "a conjunction of %d was not refused", size);
  }
}

// Digits added in any order are those of the sorted set, and numbers compare as sets do.
template <size_t kWords>
void check_keys(int bits) {
  const spex::KeyShape shape(bits);
  std::mt19937_64 next(bits);
  const int room = std::min<int>(shape.per * kWords, 1 << std::min(bits, 6));
  using Set = std::vector<uint64_t>;
  std::vector<std::pair<Set, spex::SetKey<kWords>>> made;
  for (int round = 0; round < 50; ++round) {
    Set digits;
    spex::SetKey<kWords> key{};
    while (static_cast<int>(digits.size()) < round % room) {
      const uint64_t digit = 1 + next() % shape.digit_mask();
      if (std::count(digits.begin(), digits.end(), digit)) continue;
      digits.push_back(digit);
      key = spex::with_digit(key, digit, shape);
    }
    std::sort(digits.begin(), digits.end());
    Set read;
    spex::for_each_digit(key, shape, [&](uint64_t digit) { read.push_back(digit); });
    std::sort(read.begin(), read.end());
    CHECK(read == digits, "digits of %d bits in %zu words", bits, kWords);
    made.push_back({digits, key});
  }
  for (const auto& [a, x] : made)
    for (const auto& [b, y] : made) {
      const bool first = a.size() != b.size() ? a.size() < b.size() : a < b;
      CHECK(spex::less(x, y) == first && spex::same(x, y) == (a == b), "order of %d bits", bits);
    }
}

}  // namespace

void test_trees() {
  for (int bits : {1, 2, 5, 8, 11, 16, 21, 31}) {
    check_keys<1>(bits);
    check_keys<2>(bits);
    check_keys<4>(bits);
    check_keys<32>(bits);
  }
  for (int64_t n : {1, 2, 5, 8})
    for (int groups : {1, 3}) {
      check_definition(0, 1, n, groups);
      check_definition(1, 0, n, groups);
      check_definition(9, 6, n, groups);
    }
  check_threads(60, -1);
  check_threads(1000, 777);
  for (int size : {1, 5, 9, 17}) check_conjunction(size, 2500);
  check_too_large();
}
