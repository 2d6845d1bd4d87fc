#include "tree_fourier.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>

#include "bits.h"
#include "threads.h"
#include "tree_walk.h"

namespace spex {
namespace {

constexpr int64_t kBlockTerms = int64_t{1} << 13;  // of the trees that are expanded in one go
constexpr int64_t kRoundTerms = int64_t{1} << 19;  // that wait to be merged
constexpr int64_t kPartTerms = int64_t{1} << 15;   // of a part of the table, which fits in cache
constexpr int kMaxPartBits = 8;
constexpr int64_t kWriteRows = 1024;
constexpr int64_t kTermNanoseconds = 30;

// One part of the merged spectrum, that of the sets whose hash starts with its number: open
// addressing in a table of indices to dense rows.
template <size_t kWords>
class TermTable {
 public:
  explicit TermTable(int groups) : groups_(groups) {}

  // Makes room to add so many terms.
  void reserve(int64_t terms) {
    size_t slots = std::max<size_t>(slots_.size(), 64);
    while (slots < 2 * (keys_.size() + terms)) slots *= 2;
    if (slots == slots_.size()) return;
    slots_.assign(slots, 0);
    for (size_t row = 0; row < keys_.size(); ++row)
      slots_[slot_of(keys_[row])] = static_cast<uint32_t>(row + 1);
  }

  void add(const SetKey<kWords>& key, double coef, int group) {
    uint32_t& slot = slots_[slot_of(key)];
    if (!slot) {
      keys_.push_back(key);
      coefs_.resize(coefs_.size() + groups_);
      slot = static_cast<uint32_t>(keys_.size());
    }
    coefs_[(slot - 1) * groups_ + group] += coef;
  }

  size_t size() const { return keys_.size(); }
  const SetKey<kWords>& key(size_t row) const { return keys_[row]; }
  const double* coefs(size_t row) const { return coefs_.data() + row * groups_; }

 private:
  // Where the set is, or the empty slot where it belongs.
  size_t slot_of(const SetKey<kWords>& key) const {
    size_t at = hash(key) & (slots_.size() - 1);
    while (slots_[at] && !same(keys_[slots_[at] - 1], key)) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  size_t groups_;
  std::vector<uint32_t> slots_;  // 1 + a row, or 0; a power of two, at most half full
  std::vector<SetKey<kWords>> keys_;
  std::vector<double> coefs_;  // (rows, groups)
};

// The terms of some consecutive trees of one group, sorted by the part of the table they belong to.
template <size_t kWords>
struct TermBlock {
  int64_t first, last;  // of the trees in their order
  int group;
  std::vector<TreeTerm<kWords>> terms;
  std::vector<int64_t> starts;  // (parts + 1)
};

template <size_t kWords>
class Spectrum : public TreeSpectrum {
 public:
  Spectrum(const Forest& forest, const int32_t* group, int groups, const TreeSurvey& survey,
           KeyShape shape, int64_t limit, int threads)
      : n_(forest.n), groups_(groups), shape_(shape), features_(survey.features) {
    int64_t bound = 0;
    for (int64_t terms : survey.bound) bound += terms;
    while (part_bits_ < kMaxPartBits && bound >> part_bits_ > kPartTerms) ++part_bits_;
    parts_.assign(size_t{1} << part_bits_, TermTable<kWords>(groups));
    threads = threads_worth(bound * kTermNanoseconds, threads);
    merge(forest, group, survey, threads);
    collect(limit);
    sort(survey.path_features);
  }

  int64_t size() const override { return static_cast<int64_t>(rows_.size()); }

  void write(uint64_t* support, double* coefs, int threads) const override {
    const int64_t words = ceil_div(n_, 64);
    threads = threads_worth(size() * (words + groups_), threads);
    parallel_for(ceil_div(size(), kWriteRows), threads, [&](int64_t block) {
      const int64_t end = std::min(size(), (block + 1) * kWriteRows);
      for (int64_t i = block * kWriteRows; i < end; ++i) {
        if (i + 16 < size()) __builtin_prefetch(rows_[i + 16].coefs);
        uint64_t* out = support + i * words;
        std::fill(out, out + words, 0);
        for_each_digit(rows_[i].key, shape_, [&](uint64_t digit) {
          const int32_t j = features_[digit - 1];
          out[j / 64] |= uint64_t{1} << (j % 64);
        });
        std::copy(rows_[i].coefs, rows_[i].coefs + groups_, coefs + i * groups_);
      }
    });
  }

 private:
  struct Row {
    SetKey<kWords> key;
    const double* coefs;  // (groups)
  };

  // Expands the trees and adds their terms up. Every part of the table takes the terms of its sets
  // in the order of the trees, so the sums do not depend on who does it when.
  void merge(const Forest& forest, const int32_t* group, const TreeSurvey& survey, int threads) {
    std::vector<int64_t> order(forest.trees);  // group by group
    std::iota(order.begin(), order.end(), 0);
    if (group)
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return group[a] < group[b]; });
    const auto group_of = [&](int64_t i) { return group ? group[order[i]] : 0; };
    for (int64_t next = 0; next < forest.trees;) {
      std::vector<TermBlock<kWords>> blocks;
      for (int64_t waiting = 0; next < forest.trees && waiting < kRoundTerms;) {
        TermBlock<kWords> block{next, next, group_of(next), {}, {}};
        for (int64_t terms = 0;
             next < forest.trees && group_of(next) == block.group && terms < kBlockTerms;
             block.last = ++next) {
          terms += survey.bound[order[next]];
          waiting += survey.bound[order[next]];
        }
        blocks.push_back(std::move(block));
      }
      parallel_for(blocks.size(), threads,
                   [&](int64_t i) { expand(forest, order, survey, blocks[i]); });
      parallel_for(parts_.size(), threads, [&](int64_t part) {
        int64_t terms = 0;
        for (const auto& block : blocks) terms += block.starts[part + 1] - block.starts[part];
        parts_[part].reserve(terms);
        for (const auto& block : blocks)
          for (int64_t i = block.starts[part]; i < block.starts[part + 1]; ++i)
            parts_[part].add(block.terms[i].key, block.terms[i].coef, block.group);
      });
    }
  }

  int64_t part_of(const SetKey<kWords>& key) const {
    return part_bits_ ? static_cast<int64_t>(hash(key) >> (64 - part_bits_)) : 0;
  }

  void expand(const Forest& forest, const std::vector<int64_t>& order, const TreeSurvey& survey,
              TermBlock<kWords>& block) const {
    TreeTerms<kWords> trees(forest, survey, shape_);
    std::vector<TreeTerm<kWords>> terms;
    std::vector<uint8_t> part;
    terms.reserve(2 * kBlockTerms);
    part.reserve(2 * kBlockTerms);
    block.starts.assign(parts_.size() + 1, 0);
    for (int64_t i = block.first; i < block.last; ++i)
      trees.expand(forest.roots[order[i]], [&](const SetKey<kWords>& key, double coef) {
        terms.push_back({key, coef});
        part.push_back(static_cast<uint8_t>(part_of(key)));
        ++block.starts[part.back() + 1];
      });
    std::partial_sum(block.starts.begin(), block.starts.end(), block.starts.begin());
    std::vector<int64_t> at(block.starts.begin(), block.starts.end() - 1);
    block.terms.resize(terms.size());
    for (size_t i = 0; i < terms.size(); ++i) block.terms[at[part[i]]++] = terms[i];
  }

  // Calls body(key, coefs) for the terms that are not all zeros.
  template <typename Body>
  void for_each_term(const Body& body) const {
    for (const auto& part : parts_)
      for (size_t row = 0; row < part.size(); ++row) {
        const double* coefs = part.coefs(row);
        if (std::any_of(coefs, coefs + groups_, [](double coef) { return coef != 0; }))
          body(part.key(row), coefs);
      }
  }

  // The squared norms of the terms, scaled by a power of two so that none leaves the range of
  // numbers.
  std::vector<double> norms() const {
    double most = 0;
    for_each_term([&](const SetKey<kWords>&, const double* coefs) {
      for (int g = 0; g < groups_; ++g) most = std::max(most, std::abs(coefs[g]));
    });
    const double scale = std::ldexp(1.0, -std::max(std::ilogb(most), -1000));
    std::vector<double> out;
    for_each_term([&](const SetKey<kWords>&, const double* coefs) {
      double sum = 0;
      for (int g = 0; g < groups_; ++g) sum += (coefs[g] * scale) * (coefs[g] * scale);
      out.push_back(sum);
    });
    return out;
  }

  // rows_: all terms, or where they are more than `limit` the largest, and of those as large as the
  // smallest of these the first in canonical order.
  void collect(int64_t limit) {
    const std::vector<double> norm = limit < 0 ? std::vector<double>() : norms();
    if (limit < 0 || limit >= static_cast<int64_t>(norm.size())) {
      for_each_term(
          [&](const SetKey<kWords>& key, const double* coefs) { rows_.push_back({key, coefs}); });
      return;
    }
    if (limit == 0) return;
    std::vector<double> ranked = norm;
    std::nth_element(ranked.begin(), ranked.begin() + limit - 1, ranked.end(), std::greater<>());
    const double least = ranked[limit - 1];
    std::vector<Row> equal;
    auto next = norm.begin();
    for_each_term([&](const SetKey<kWords>& key, const double* coefs) {
      if (*next >= least) (*next > least ? rows_ : equal).push_back({key, coefs});
      ++next;
    });
    std::sort(equal.begin(), equal.end(),
              [](const Row& a, const Row& b) { return less(a.key, b.key); });
    rows_.insert(rows_.end(), equal.begin(), equal.begin() + (limit - size()));
  }

  // By key, some bits at a time from the least significant.
  void sort(int digits) {
    constexpr int kBits = 11;
    std::vector<Row> sorted(rows_.size());
    for (int word = 0; word < shape_.words(digits); ++word)
      for (int shift = 0; shift < 64; shift += kBits) {
        const auto value = [&](const Row& row) {
          return row.key[word] >> shift & ((1 << kBits) - 1);
        };
        std::array<int64_t, (1 << kBits) + 1> start{};
        for (const Row& row : rows_) ++start[value(row) + 1];
        if (std::find(start.begin(), start.end(), size()) != start.end()) continue;  // all equal
        std::partial_sum(start.begin(), start.end(), start.begin());
        for (const Row& row : rows_) sorted[start[value(row)]++] = row;
        rows_.swap(sorted);
      }
  }

  const int64_t n_;
  const int groups_;
  const KeyShape shape_;
  const std::vector<int32_t> features_;  // by digit - 1
  int part_bits_ = 0;
  std::vector<TermTable<kWords>> parts_;
  std::vector<Row> rows_;  // what is written: keys, and where their coefficients are in parts_
};

template <size_t kWords>
std::unique_ptr<TreeSpectrum> make(const Forest& forest, const int32_t* group, int groups,
                                   const TreeSurvey& survey, const KeyShape& shape, int64_t limit,
                                   int threads) {
  return std::make_unique<Spectrum<kWords>>(forest, group, groups, survey, shape, limit, threads);
}

}  // namespace

std::unique_ptr<TreeSpectrum> tree_fourier_cpu(const Forest& forest, const int32_t* group,
                                               int groups, int64_t limit, int threads) {
  const TreeSurvey survey(forest);
  int bits = 1;
  while (survey.features.size() >> bits) ++bits;
  const KeyShape shape(bits);
  const int words = shape.words(survey.path_features);
  const auto call = words <= 1   ? make<1>
                    : words <= 2 ? make<2>
                    : words <= 4 ? make<4>
                    : words <= 8 ? make<8>
                                 : make<32>;
  return call(forest, group, groups, survey, shape, limit, threads);
}

}  // namespace spex
