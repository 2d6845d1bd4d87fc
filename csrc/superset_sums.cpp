#include "superset_sums.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

namespace spex {
namespace {

// The terms as lists of features.
struct Lists {
  std::vector<int64_t> starts{0};
  std::vector<int32_t> features;
  int32_t end = 0;  // above every feature

  explicit Lists(const WeightedTerms& terms) {
    for (int64_t i = 0; i < terms.terms; ++i) {
      for (int64_t w = 0; w < terms.words; ++w)
        for (uint64_t word = terms.support[i * terms.words + w]; word; word &= word - 1)
          features.push_back(static_cast<int32_t>(64 * w + __builtin_ctzll(word)));
      starts.push_back(static_cast<int64_t>(features.size()));
      if (starts[i] < starts[i + 1]) end = std::max(end, features.back() + 1);
    }
  }
  int64_t size(int64_t term) const { return starts[term + 1] - starts[term]; }
};

// Subsets of one size, each with what its term gives it.
struct Subsets {
  std::vector<int32_t> sets;  // (rows, size)
  std::vector<double> values;
};

// Calls body(positions) for the subsets of {0, ..., count - 1} of `size`, as they ascend.
template <typename Body>
void for_each_subset(int64_t count, int size, const Body& body) {
  std::vector<int64_t> at(size);
  std::iota(at.begin(), at.end(), 0);
  while (true) {
    body(at.data());
    int i = size - 1;
    while (i >= 0 && at[i] == count - size + i) --i;
    if (i < 0) return;
    for (++at[i]; ++i < size;) at[i] = at[i - 1] + 1;
  }
}

double choose(int64_t count, int size) {
  double out = 1;
  for (int i = 0; i < size; ++i) out *= static_cast<double>(count - i) / (i + 1);
  return out;
}

Subsets subsets_of(const WeightedTerms& terms, const Lists& lists, int size) {
  const auto weight = [&](int64_t term) {
    const int64_t d = lists.size(term);
    return d < size || d >= terms.columns ? 0 : terms.weights[(size - 1) * terms.columns + d];
  };
  double rows = 0;
  for (int64_t i = 0; i < terms.terms; ++i)
    if (weight(i)) rows += choose(lists.size(i), size);
  if (rows >= kMaxSubsets)
    throw std::length_error("superset_sums: there must be fewer than 2**31 subsets of terms");
  Subsets out;
  out.sets.reserve(static_cast<size_t>(rows) * size);
  out.values.reserve(static_cast<size_t>(rows));
  for (int64_t i = 0; i < terms.terms; ++i) {
    if (!weight(i)) continue;
    const int32_t* features = lists.features.data() + lists.starts[i];
    const double value = weight(i) * terms.coefs[i];
    for_each_subset(lists.size(i), size, [&](const int64_t* at) {
      for (int c = 0; c < size; ++c) out.sets.push_back(features[at[c]]);
      out.values.push_back(value);
    });
  }
  return out;
}

// The rows as their sets ascend, equal ones as they stand: a counting sort by each feature, the
// last one first.
std::vector<uint32_t> ascending(const Subsets& subsets, int size, int32_t end) {
  const size_t rows = subsets.values.size();
  std::vector<uint32_t> order(rows), next(rows);
  std::iota(order.begin(), order.end(), 0);
  std::vector<uint32_t> starts(end + 1);
  for (int c = size - 1; c >= 0; --c) {
    const auto key = [&](uint32_t row) { return subsets.sets[int64_t{row} * size + c]; };
    std::fill(starts.begin(), starts.end(), 0);
    for (size_t row = 0; row < rows; ++row) ++starts[key(static_cast<uint32_t>(row)) + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    for (const uint32_t row : order) next[starts[key(row)]++] = row;
    order.swap(next);
  }
  return order;
}

// Where the values other than 0 are, the largest magnitude first, equal ones as they stand: a
// counting sort by 11 bits at a time. Floats of one sign compare as their bits do.
std::vector<uint32_t> largest_first(const std::vector<double>& values) {
  constexpr int kBits = 11, kPasses = 6;
  struct Item {
    uint64_t key;
    uint32_t at;
  };
  std::vector<Item> items;
  items.reserve(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == 0) continue;
    const double magnitude = std::fabs(values[i]);
    uint64_t bits;
    std::memcpy(&bits, &magnitude, sizeof(bits));
    items.push_back({~bits, static_cast<uint32_t>(i)});
  }
  std::vector<Item> next(items.size());
  const auto digit = [](uint64_t key, int pass) {
    return key >> (kBits * pass) & ((1 << kBits) - 1);
  };
  std::array<std::array<uint32_t, (1 << kBits) + 1>, kPasses> starts{};
  for (const Item& item : items)
    for (int pass = 0; pass < kPasses; ++pass) ++starts[pass][digit(item.key, pass) + 1];
  for (int pass = 0; pass < kPasses; ++pass) {
    std::partial_sum(starts[pass].begin(), starts[pass].end(), starts[pass].begin());
    for (const Item& item : items) next[starts[pass][digit(item.key, pass)]++] = item;
    items.swap(next);
  }
  std::vector<uint32_t> out;
  out.reserve(items.size());
  for (const Item& item : items) out.push_back(item.at);
  return out;
}

}  // namespace

SupersetSums::SupersetSums(const WeightedTerms& terms) : sets_(terms.order) {
  const Lists lists(terms);
  for (int size = 1; size <= terms.order; ++size) {
    const Subsets subsets = subsets_of(terms, lists, size);
    const int32_t* last = nullptr;
    for (const uint32_t row : ascending(subsets, size, lists.end)) {
      const int32_t* set = subsets.sets.data() + int64_t{row} * size;
      if (last && std::equal(set, set + size, last)) {
        sums_.back() += subsets.values[row];
        continue;
      }
      sets_[size - 1].insert(sets_[size - 1].end(), set, set + size);
      sums_.push_back(subsets.values[row]);
      last = set;
    }
  }
  order_ = largest_first(sums_);
}

void SupersetSums::write(int32_t* sets, double* sums) const {
  const size_t width = sets_.size();
  std::vector<size_t> ends(width);  // in sums_, of the sets of each size
  for (size_t i = 0; i < width; ++i) ends[i] = (i ? ends[i - 1] : 0) + sets_[i].size() / (i + 1);
  for (const uint32_t at : order_) {
    const size_t i = std::upper_bound(ends.begin(), ends.end(), at) - ends.begin();
    const int32_t* set = sets_[i].data() + (at - (i ? ends[i - 1] : 0)) * (i + 1);
    std::fill(std::copy(set, set + i + 1, sets), sets + width, -1);
    sets += width;
    *sums++ = sums_[at];
  }
}

}  // namespace spex
