#include "boost.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <utility>

#include "bits.h"
#include "boost_samples.h"
#include "masks.h"
#include "threads.h"

namespace spex {
namespace {

// A feature to split a node by, -1 for none, and how good it is: see best_split.
struct Split {
  double score;
  int32_t feature;
};

constexpr int kOverrun = 3;  // see list_samples

}  // namespace
}  // namespace spex

#define SPEX_KERNELS "boost.inc"
#include "each_isa.h"

namespace spex {
namespace {

constexpr uint32_t kRowStream = 3, kFeatureStream = 4;  // of random masks

// A leaf of the tree that is being grown.
struct Leaf {
  int32_t node;  // in the forest
  int depth;
  int32_t sum, count;              // of the fitted samples
  std::vector<uint64_t> rows;      // bits: all of them, fitted or not
  std::vector<int32_t> histogram;  // sums by feature, then counts: of leaves that may be split
  int32_t feature;                 // the best split
};

template <typename Body>
void for_each_bit(const uint64_t* bits, int64_t words, const Body& body) {
  for (int64_t at = 0; at < words; ++at)
    for (uint64_t word = bits[at]; word; word &= word - 1) body(64 * at + __builtin_ctzll(word));
}

// One fit.
class Fit {
 public:
  Fit(const BoostProblem& problem, const Samples& samples, const BoostSettings& settings,
      const double* values, const uint64_t* bag, int64_t index, Isa isa)
      : problem_(problem),
        samples_(samples),
        settings_(settings),
        bag_(bag),
        index_(index),
        isa_(isa),
        list_samples_(SPEX_CHOOSE(isa, list_samples)),
        features_(64 * samples.words),
        targets_(64 * samples.row_words),
        inside_(targets_.size()),
        lanes_(targets_.size()),
        fitted_(samples.row_words),
        list_(targets_.size() + kOverrun),
        allowed_(features_, 1.0) {
    double largest = 0.0, sum = 0.0;
    for_each_bit(bag_, samples.row_words, [&](int64_t i) {
      bagged_.push_back(static_cast<int32_t>(i));
      largest = std::max(largest, std::abs(values[i]));
    });
    std::frexp(largest, &exponent_);
    for (const int32_t i : bagged_) sum += targets_[i] = std::ldexp(values[i], -exponent_);
    bias_ = sum / static_cast<double>(bagged_.size());
    residuals_ = targets_;
    for (double& residual : residuals_) residual -= bias_;
  }

  // All trees; staged (num_stages, rows).
  BoostedTrees run(double* staged) {
    int tree = 0;
    for (int64_t s = 0; s < problem_.num_stages; ++s) {
      for (; tree < std::min(problem_.stages[s], settings_.trees); ++tree) add_tree(tree);
      for (int64_t i = 0; i < samples_.rows; ++i)
        *staged++ = std::ldexp(targets_[i] - residuals_[i], exponent_);
    }
    for (; tree < settings_.trees; ++tree) add_tree(tree);
    forest_.bias = std::ldexp(bias_, exponent_);
    for (double& value : forest_.value) value = std::ldexp(value, exponent_);
    return std::move(forest_);
  }

 private:
  void add_tree(int tree) {
    draw_samples(tree);
    draw_features(tree);
    const int64_t size = static_cast<int64_t>(targets_.size());
    const double largest =
        SPEX_CHOOSE(isa_, largest_residual)(residuals_.data(), inside_.data(), size);
    const double most = std::min<double>(kLargest, INT32_MAX / problem_.samples);
    scale_ = largest > 0.0 && std::isfinite(most / largest) ? most / largest : 0.0;
    SPEX_CHOOSE(isa_, round_residuals)
    (residuals_.data(), inside_.data(), size, scale_, lanes_.data());

    num_leaves_ = 0;
    best_ = {};
    forest_.roots.push_back(static_cast<int32_t>(forest_.value.size()));
    grow_root();
    while (num_leaves_ < settings_.leaves && !best_.empty()) {
      const int32_t leaf = -best_.top().second;
      best_.pop();
      split(leaf);
    }
    for (int32_t i = 0; i < num_leaves_; ++i) set_value(leaves_[i]);
  }

  // The samples a tree is fitted to.
  void draw_samples(int tree) {
    const bool all = settings_.row_share >= 1.0;
    if (all && tree > 0) return;
    const auto chosen = all ? bagged_ : draw(kRowStream, tree, bagged_, settings_.row_share);
    std::fill(fitted_.begin(), fitted_.end(), 0);
    std::fill(inside_.begin(), inside_.end(), 0.0);
    for (const int32_t i : chosen) {
      fitted_[i / 64] |= uint64_t{1} << (i % 64);
      inside_[i] = 1.0;
    }
  }

  // The features a tree may ask for.
  void draw_features(int tree) {
    if (settings_.feature_share >= 1.0) return;
    std::vector<int32_t> all(samples_.n);
    std::iota(all.begin(), all.end(), 0);
    std::fill(allowed_.begin(), allowed_.end(), 0.0);
    for (const int32_t f : draw(kFeatureStream, tree, all, settings_.feature_share))
      allowed_[f] = 1.0;
  }

  // round(share * size) of `all`, at least one: those with the least random words.
  std::vector<int32_t> draw(uint32_t stream, int tree, const std::vector<int32_t>& all,
                            double share) const {
    const int64_t size = static_cast<int64_t>(all.size());
    const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(share * size + 0.5));
    std::vector<uint64_t> keys(size);
    const int64_t row = index_ * (int64_t{1} << 32) + tree;
    uniform_masks_cpu(problem_.seed, stream, row, 1, 64 * size, keys.data(), isa_, 1);
    std::vector<int32_t> order(size);
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(
        order.begin(), order.begin() + most - 1, order.end(),
        [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
    order.resize(most);
    for (int32_t& at : order) at = all[at];
    return order;
  }

  void grow_root() {
    Leaf& root = new_leaf();
    std::fill(root.rows.begin(), root.rows.end(), ~uint64_t{0});
    if (samples_.rows % 64) root.rows.back() >>= 64 - samples_.rows % 64;
    root.depth = 0;
    root.count = static_cast<int32_t>(list(root));
    root.sum = 0;
    for (int32_t i = 0; i < root.count; ++i) root.sum += sum_of(-lanes_[list_[i]]);
    if (!divisible(root)) return;
    fill_histogram(root, root.count);
    find_split(0);
  }

  // Splits a leaf: it becomes the side without the feature, and the other side a new leaf.
  void split(int32_t index) {
    const int32_t parent = leaves_[index].node, feature = leaves_[index].feature;
    forest_.feature[parent] = feature;
    forest_.absent[parent] = leaves_[index].node = new_node();
    Leaf &other = new_leaf(), &leaf = leaves_[index];
    forest_.present[parent] = other.node;
    other.depth = ++leaf.depth;
    other.sum = leaf.histogram[feature];
    other.count = leaf.histogram[features_ + feature];
    leaf.sum -= other.sum;
    leaf.count -= other.count;
    const uint64_t* column = samples_.column(feature);
    for (int64_t at = 0; at < samples_.row_words; ++at) {
      other.rows[at] = leaf.rows[at] & column[at];
      leaf.rows[at] &= ~column[at];
    }

    int32_t small = num_leaves_ - 1, large = index;
    if (other.count > leaf.count) {
      std::swap(small, large);
      std::swap(other.histogram, leaf.histogram);
    }
    if (num_leaves_ == settings_.leaves || !divisible(leaves_[large])) return;
    std::vector<int32_t>& rest = leaves_[large].histogram;
    fill_histogram(leaves_[small], list(leaves_[small]));
    for (size_t i = 0; i < rest.size(); ++i) rest[i] -= leaves_[small].histogram[i];
    find_split(large);
    if (divisible(leaves_[small])) find_split(small);
  }

  bool divisible(const Leaf& leaf) const {
    return leaf.depth < settings_.depth && leaf.count / 2 >= settings_.min_leaf;
  }

  // list_ = the fitted samples of a leaf; returns how many.
  int64_t list(const Leaf& leaf) {
    return list_samples_(leaf.rows.data(), fitted_.data(), samples_.row_words, list_.data());
  }

  // The leaf's first `count` samples are in list_.
  void fill_histogram(Leaf& leaf, int64_t count) const {
    leaf.histogram.resize(2 * features_);
    samples_.sum(list_.data(), count, lanes_.data(), leaf.histogram.data());
  }

  // Offers a leaf for splitting if that lowers the squared error.
  void find_split(int32_t index) {
    Leaf& leaf = leaves_[index];
    const double sum = leaf.sum, count = leaf.count, l2 = settings_.l2,
                 min_leaf = settings_.min_leaf;
    const int32_t *sums = leaf.histogram.data(), *counts = sums + features_;
    const Split best = SPEX_CHOOSE(isa_, best_split)(sums, counts, allowed_.data(), features_, sum,
                                                     count, min_leaf, l2);
    leaf.feature = best.feature;
    const double gain =
        best.score / (count + 2 * l2) - sum * sum * l2 / ((count + l2) * (count + 2 * l2));
    if (gain > 0.0) best_.emplace(gain, -index);
  }

  // The value of a leaf, which its samples then predict.
  void set_value(const Leaf& leaf) {
    if (leaf.sum == 0) return;
    const double value = settings_.rate * (leaf.sum / scale_) / (leaf.count + settings_.l2);
    forest_.value[leaf.node] = value;
    constexpr int64_t kWords = 32;  // of samples listed at a time
    int32_t list[64 * kWords + kOverrun];
    for (int64_t at = 0; at < samples_.row_words; at += kWords) {
      const uint64_t* rows = leaf.rows.data() + at;
      const int64_t count =
          list_samples_(rows, rows, std::min(kWords, samples_.row_words - at), list);
      for (int64_t i = 0; i < count; ++i) residuals_[64 * at + list[i]] -= value;
    }
  }

  // A leaf with a node; the rest is what an earlier tree has left.
  Leaf& new_leaf() {
    if (num_leaves_ == static_cast<int32_t>(leaves_.size())) {
      leaves_.emplace_back();
      leaves_.back().rows.resize(samples_.row_words);
    }
    leaves_[num_leaves_].node = new_node();
    return leaves_[num_leaves_++];
  }

  int32_t new_node() {
    for (auto* link : {&forest_.feature, &forest_.absent, &forest_.present}) link->push_back(-1);
    forest_.value.push_back(0.0);
    return static_cast<int32_t>(forest_.value.size()) - 1;
  }

  const BoostProblem& problem_;
  const Samples& samples_;
  const BoostSettings& settings_;
  const uint64_t* bag_;
  const int64_t index_;
  const Isa isa_;
  const decltype(&portable::list_samples) list_samples_;
  const int64_t features_;  // with room for spare ones

  std::vector<int32_t> bagged_;    // the samples of the bag
  std::vector<double> targets_;    // (rows) values / 2**exponent_ in the bag, 0 elsewhere
  std::vector<double> residuals_;  // (rows) targets minus predictions
  std::vector<double> inside_;     // (rows) 1 where the tree is fitted, else 0
  std::vector<int32_t> lanes_;     // (rows) see lane_of()
  std::vector<uint64_t> fitted_;   // bits: inside_
  std::vector<int32_t> list_;      // scratch: samples
  std::vector<double> allowed_;    // (features_) 1 where the tree may ask for it, else 0
  int exponent_ = 0;
  double bias_ = 0.0, scale_ = 0.0;

  std::vector<Leaf> leaves_;
  int32_t num_leaves_ = 0;
  std::priority_queue<std::pair<double, int32_t>> best_;  // gain, -leaf: the older leaf on a tie
  BoostedTrees forest_;
};

}  // namespace

std::vector<BoostedTrees> boost_cpu(const BoostProblem& problem,
                                    const std::vector<BoostSettings>& settings,
                                    const std::vector<const double*>& values,
                                    const std::vector<const uint64_t*>& bags, double* staged,
                                    Isa isa, int threads) {
  const Samples samples(problem.masks, problem.samples, problem.rows, problem.n, isa, threads);
  std::vector<BoostedTrees> forests(settings.size());
  parallel_for(static_cast<int64_t>(settings.size()), threads, [&](int64_t j) {
    Fit fit(problem, samples, settings[j], values[j], bags[j], j, isa);
    forests[j] = fit.run(staged + j * problem.num_stages * problem.rows);
  });
  return forests;
}

}  // namespace spex
