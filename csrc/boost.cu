// One tree of boosting as one kernel that stays on the device until the tree is grown: the leaf
// whose split lowers the error most is split next, as in boost.cpp, whose arithmetic this is. All
// sums are of whole numbers, so nothing depends on the grid.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "boost_tree.h"
#include "team.cuh"

namespace spex {
namespace {

constexpr int kThreads = 256;  // of a block
constexpr int kSpan = 2048;    // samples of a leaf that a thread adds up, at most

class TreeGrower {
 public:
  __device__ TreeGrower(const Team& team, const BoostTree& q) : team_(team), q_(q) {}

  __device__ void run() {
    first_node_ = *q_.nodes;
    round_residuals();
    grow_root();
    while (leaves_ < q_.leaves) {
      const int32_t leaf = best_leaf();
      if (leaf < 0) break;
      split(leaf);
    }
    set_values();
  }

 private:
  // As whole numbers: lanes[i], 0 outside the samples that the tree is fitted to.
  __device__ void round_residuals() {
    const double largest = team_.largest(
        q_.samples, [&](int64_t i) { return q_.inside[i] ? fabs(q_.residual[i]) : 0.0; });
    const int64_t fits = INT32_MAX / q_.samples;
    const double most = static_cast<double>(fits < kLargest ? fits : kLargest);
    scale_ = largest > 0.0 && most / largest <= DBL_MAX ? most / largest : 0.0;
    team_.share(q_.rows, [&](int64_t i) { q_.leaf_of[i] = 0; });
    team_.each(q_.samples, [&](int64_t i) {
      constexpr double kRound = 6755399441055744.0;  // 1.5 * 2**52: to the nearest, ties to even
      const double inside = q_.inside[i] ? 1.0 : 0.0;
      q_.lanes[i] = static_cast<int32_t>((q_.residual[i] * inside * scale_ + kRound) - kRound);
    });
  }

  __device__ void grow_root() {
    const double sum = team_.sum(q_.samples, [&](int64_t i) { return double(q_.lanes[i]); });
    const int64_t count = list(0);
    const int32_t node = new_node();
    if (team_.first()) {
      *q_.root = node;
      q_.leaf[0] = {node, 0, static_cast<int32_t>(sum), static_cast<int32_t>(count), 0, -1, 0.0};
    }
    leaves_ = 1;
    team_.wait();
    if (!divisible(0)) return;
    fill_histogram(0, count);
    find_splits(0, -1);
  }

  // The leaf of the largest gain, the older one on a tie; -1 where none can be split.
  __device__ int32_t best_leaf() const {
    int32_t best = -1;
    for (int32_t i = 0; i < leaves_; ++i)
      if (q_.leaf[i].gain > (best < 0 ? 0.0 : q_.leaf[best].gain)) best = i;
    return best;
  }

  // A leaf becomes the side without its feature, and the other side a new leaf.
  __device__ void split(int32_t index) {
    const BoostLeaf parent = q_.leaf[index];
    const int32_t added = leaves_++, feature = parent.feature;
    const int32_t absent = new_node(), present = new_node();
    team_.each(q_.rows, [&](int64_t i) {
      if (q_.leaf_of[i] == index && has(i, feature)) q_.leaf_of[i] = added;
    });
    if (team_.first()) {
      const int32_t* histogram = histogram_of(index);
      const int32_t sum = histogram[feature], count = histogram[q_.n + feature];
      BoostLeaf &leaf = q_.leaf[index], &other = q_.leaf[added];
      other = {present, parent.depth + 1, sum, count, added, -1, 0.0};
      leaf = {absent, parent.depth + 1, parent.sum - sum, parent.count - count, parent.slot, -1,
              0.0};
      if (other.count > leaf.count) {  // the larger one keeps the parent's histogram
        other.slot = leaf.slot;
        leaf.slot = added;
      }
      q_.feature[parent.node] = feature;
      q_.absent[parent.node] = absent;
      q_.present[parent.node] = present;
    }
    team_.wait();
    const bool swapped = q_.leaf[added].count > q_.leaf[index].count;
    const int32_t small = swapped ? index : added, large = swapped ? added : index;
    if (leaves_ == q_.leaves || !divisible(large)) return;
    fill_histogram(small, list(small));
    int32_t* rest = histogram_of(large);
    const int32_t* part = histogram_of(small);
    team_.each(2 * q_.n, [&](int64_t i) { rest[i] -= part[i]; });
    find_splits(large, divisible(small) ? small : -1);
  }

  __device__ bool divisible(int32_t leaf) const {
    return q_.leaf[leaf].depth < q_.depth && q_.leaf[leaf].count / 2 >= q_.min_leaf;
  }

  // The fitted samples of a leaf; returns how many.
  __device__ int64_t list(int32_t leaf) const {
    return team_.select(
        q_.samples, [&](int64_t i) { return q_.leaf_of[i] == leaf && q_.inside[i]; },
        [&](int64_t i, int64_t place) { q_.list[place] = static_cast<int32_t>(i); });
  }

  // Sums of the `count` listed samples by feature. A thread has a feature and a span of samples;
  // threads beside it have the features beside it, in the same words of the masks.
  __device__ void fill_histogram(int32_t leaf, int64_t count) const {
    int32_t* sums = histogram_of(leaf);
    team_.each(2 * q_.n, [&](int64_t i) { sums[i] = 0; });
    const int64_t features = ceil_div(q_.n, 32) * 32, spans = ceil_div(count, kSpan);
    team_.each(features * spans, [&](int64_t item) {
      const int64_t f = item % features, end = (item / features + 1) * kSpan;
      if (f >= q_.n) return;
      const uint64_t* word = q_.masks + f / 64;
      int32_t sum = 0, with = 0;
      for (int64_t at = end - kSpan; at < end && at < count; ++at) {
        const int32_t i = q_.list[at];
        if (!(word[i * q_.words] >> (f % 64) & 1)) continue;
        sum += q_.lanes[i];
        ++with;
      }
      if (!with) return;
      atomicAdd(sums + f, sum);
      atomicAdd(sums + q_.n + f, with);
    });
  }

  // The best split of leaf a and, if it is not -1, of leaf b: see best_split of boost.inc.
  __device__ void find_splits(int32_t a, int32_t b) const {
    constexpr int64_t kPiece = 64;  // features
    const int64_t pieces = ceil_div(q_.n, kPiece);
    team_.each((b < 0 ? 1 : 2) * pieces, [&](int64_t k) {
      const BoostLeaf leaf = q_.leaf[k < pieces ? a : b];
      const int32_t* sums = q_.histogram + 2 * q_.n * leaf.slot;
      const double sum = leaf.sum, count = leaf.count;
      double best = 0.0;
      int32_t at = -1;
      const int64_t first = k % pieces * kPiece;
      for (int64_t f = first; f < first + kPiece && f < q_.n; ++f) {
        if (!q_.allowed[f]) continue;
        const double s1 = sums[f], c1 = sums[q_.n + f];
        const double s0 = sum - s1, c0 = count - c1, w0 = c0 + q_.l2, w1 = c1 + q_.l2;
        const double apart = s1 * w0 - s0 * w1;
        const double score = apart * apart / (w0 * w1);
        if (!(score > best && c1 >= q_.min_leaf && c0 >= q_.min_leaf)) continue;
        best = score;
        at = static_cast<int32_t>(f);
      }
      q_.scores[k] = best;
      q_.places[k] = at;
    });
    if (team_.first()) {
      choose(a, 0, pieces);
      if (b >= 0) choose(b, pieces, pieces);
    }
    team_.wait();
  }

  // Of the pieces of a leaf the first of the best.
  __device__ void choose(int32_t index, int64_t first, int64_t pieces) const {
    BoostLeaf& leaf = q_.leaf[index];
    double best = 0.0;
    for (int64_t k = first; k < first + pieces; ++k) {
      if (!(q_.scores[k] > best)) continue;
      best = q_.scores[k];
      leaf.feature = q_.places[k];
    }
    const double sum = leaf.sum, count = leaf.count, l2 = q_.l2;
    const double gain =
        best / (count + 2 * l2) - sum * sum * l2 / ((count + l2) * (count + 2 * l2));
    leaf.gain = gain > 0.0 ? gain : 0.0;
  }

  // The values of the leaves, which their samples then predict.
  __device__ void set_values() const {
    team_.each(leaves_, [&](int64_t i) {
      const BoostLeaf& leaf = q_.leaf[i];
      if (leaf.sum) q_.value[leaf.node] = q_.rate * (leaf.sum / scale_) / (leaf.count + q_.l2);
    });
    team_.share(q_.rows,
                [&](int64_t i) { q_.residual[i] -= q_.value[q_.leaf[q_.leaf_of[i]].node]; });
    if (team_.first()) *q_.nodes = first_node_ + made_;
  }

  // Nodes are a leaf until they are split.
  __device__ int32_t new_node() {
    const int32_t node = first_node_ + made_++;
    if (team_.first()) {
      q_.feature[node] = q_.absent[node] = q_.present[node] = -1;
      q_.value[node] = 0.0;
    }
    return node;
  }

  __device__ bool has(int64_t row, int32_t feature) const {
    return q_.masks[row * q_.words + feature / 64] >> (feature % 64) & 1;
  }
  __device__ int32_t* histogram_of(int32_t leaf) const {
    return q_.histogram + 2 * q_.n * q_.leaf[leaf].slot;
  }

  const Team& team_;
  const BoostTree& q_;
  int32_t leaves_ = 0, first_node_ = 0, made_ = 0;
  double scale_ = 0.0;
};

__global__ void __launch_bounds__(kThreads, 1) boost_tree(BoostTree q) {
  const Team team(q.pieces);
  TreeGrower(team, q).run();
}

}  // namespace

void boost_tree_cuda(const BoostTree& tree, const Place& place) {
  const int64_t items = ceil_div(tree.samples, kSpan) * tree.n;
  const int64_t most = std::max(std::max(items, tree.rows), int64_t{kThreads});
  launch_resident(boost_tree, ceil_div(most, kThreads), kThreads, place, tree);
}

}  // namespace spex
