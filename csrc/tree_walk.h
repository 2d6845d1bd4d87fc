// From one tree to its Fourier terms.
#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "set_key.h"
#include "tree_fourier.h"

namespace spex {

// The way down from a root: which features have been asked, and which side was taken.
class TreePath {
 public:
  explicit TreePath(const Forest& forest) : forest_(forest), side_(forest.n, kOpen) {}

  // `node`, or where the features that are known lead from it: a leaf, or a node with a new one.
  int32_t settle(int32_t node) const {
    for (int32_t j; (j = forest_.feature[node]) >= 0 && side_[j] != kOpen;)
      node = side_[j] ? forest_.present[node] : forest_.absent[node];
    return node;
  }

  // Calls body(child) for both sides of a settled inner node, on the way that leads there.
  template <typename Body>
  void for_each_side(int32_t node, const Body& body) {
    int8_t& side = side_[forest_.feature[node]];
    side = 0;
    body(forest_.absent[node]);
    side = 1;
    body(forest_.present[node]);
    side = kOpen;
  }

 private:
  static constexpr int8_t kOpen = -1;
  const Forest& forest_;
  std::vector<int8_t> side_;  // (n)
};

// What the trees are made of, known before their terms are.
class TreeSurvey {
 public:
  std::vector<int64_t> bound;     // (trees): at most so many terms each
  int path_features = 0;          // distinct features on a path
  std::vector<int32_t> features;  // those in use, ascending
  std::vector<uint32_t> digit;    // (n): 1 + the place of a feature among those, or 0

  explicit TreeSurvey(const Forest& forest) : digit(forest.n), forest_(forest), path_(forest) {
    bound.reserve(forest.trees);
    for (int64_t t = 0; t < forest.trees; ++t) bound.push_back(visit(forest.roots[t], 0));
    for (int64_t j = 0; j < forest.n; ++j) {
      if (!digit[j]) continue;
      features.push_back(static_cast<int32_t>(j));
      digit[j] = static_cast<uint32_t>(features.size());
    }
  }

 private:
  // Marks the features below a node, which `depth` features lead to; returns a bound on its terms.
  int64_t visit(int32_t node, int depth) {
    node = path_.settle(node);
    if (forest_.feature[node] < 0) return 1;
    if (depth == kMaxPathFeatures)
      throw std::length_error("tree_fourier: trees must have at most 64 features on a path");
    path_features = std::max(path_features, depth + 1);
    digit[forest_.feature[node]] = 1;
    int64_t terms = -1;  // both sides have the empty set
    path_.for_each_side(node, [&](int32_t child) { terms += visit(child, depth + 1); });
    return std::min(2 * terms, kMaxTreeTerms);
  }

  const Forest& forest_;
  TreePath path_;
};

template <size_t kWords>
struct TreeTerm {
  SetKey<kWords> key;
  double coef;
};

// Memory that is used again; what it held is lost when it grows.
template <typename T>
class Buffer {
 public:
  T* room(int64_t size) {
    if (size > capacity_) {
      capacity_ = std::max(size, 2 * capacity_);
      data_.reset(new T[capacity_]);
    }
    return data_.get();
  }
  void set_size(int64_t size) { size_ = size; }
  const T* begin() const { return data_.get(); }
  const T* end() const { return data_.get() + size_; }
  int64_t size() const { return size_; }

 private:
  std::unique_ptr<T[]> data_;
  int64_t size_ = 0, capacity_ = 0;
};

// The spectra of trees, one after the other. With a and b the spectra below the two sides of a node
// that asks for feature j, the spectrum at the node is (a + b) / 2, and (a - b) / 2 with j joined
// to each set. Lists stay sorted by key, so that equal terms meet.
template <size_t kWords>
class TreeTerms {
 public:
  using Term = TreeTerm<kWords>;

  TreeTerms(const Forest& forest, const TreeSurvey& survey, KeyShape shape)
      : forest_(forest),
        digit_(survey.digit),
        shape_(shape),
        path_(forest),
        levels_(survey.path_features + 1) {}

  // Calls emit(key, coef) for the terms of the tree at `root` that are not zero, each once.
  template <typename Emit>
  void expand(int32_t root, const Emit& emit) {
    root = path_.settle(root);
    if (forest_.feature[root] < 0) {
      if (forest_.value[root] != 0) emit(SetKey<kWords>{}, forest_.value[root]);
      return;
    }
    split(root, 0);
    for (const Term& term : levels_[0].sum) emit(term.key, term.coef);
    for (const Term& term : levels_[0].difference) emit(term.key, term.coef);
  }

 private:
  struct Level {
    Buffer<Term> first, all;  // below the first side of a node; at a node
    Buffer<Term> sum, difference;
  };

  // levels_[depth].all: the spectrum at `node`, which `depth` features lead to.
  void spectrum(int32_t node, int depth) {
    node = path_.settle(node);
    Level& level = levels_[depth];
    if (forest_.feature[node] < 0) {
      *level.all.room(1) = {SetKey<kWords>{}, forest_.value[node]};
      level.all.set_size(forest_.value[node] != 0);
      return;
    }
    split(node, depth);
    Term* out = level.all.room(level.sum.size() + level.difference.size());
    out = std::merge(level.sum.begin(), level.sum.end(), level.difference.begin(),
                     level.difference.end(), out,
                     [](const Term& a, const Term& b) { return less(a.key, b.key); });
    level.all.set_size(out - level.all.begin());
  }

  // levels_[depth].sum and .difference: the two parts of the spectrum at an inner node.
  void split(int32_t node, int depth) {
    Level& level = levels_[depth];
    Buffer<Term>& below = levels_[depth + 1].all;
    path_.for_each_side(node, [&](int32_t child) {
      std::swap(level.first, below);
      spectrum(child, depth + 1);
    });
    check_size(2 * std::max(level.first.size(), below.size()));  // before there is memory for it
    combine(level.first, below, digit_[forest_.feature[node]], level);
    check_size(level.sum.size() + level.difference.size());
  }

  static void check_size(int64_t terms) {
    if (terms > kMaxTreeTerms)
      throw std::length_error("tree_fourier: trees must have at most 2**24 terms each");
  }

  void combine(const Buffer<Term>& first, const Buffer<Term>& second, uint64_t digit,
               Level& level) const {
    Term* sum = level.sum.room(first.size() + second.size());
    Term* difference = level.difference.room(first.size() + second.size());
    const auto put = [&](const SetKey<kWords>& key, double plus, double minus) {
      if (plus != 0) *sum++ = {key, plus};
      if (minus != 0) *difference++ = {with_digit(key, digit, shape_), minus};
    };
    const Term *a = first.begin(), *b = second.begin();
    while (a != first.end() && b != second.end()) {
      if (same(a->key, b->key)) {
        put(a->key, 0.5 * a->coef + 0.5 * b->coef, 0.5 * a->coef - 0.5 * b->coef);
        ++a, ++b;
      } else if (less(a->key, b->key)) {
        put(a->key, 0.5 * a->coef, 0.5 * a->coef), ++a;
      } else {
        put(b->key, 0.5 * b->coef, -0.5 * b->coef), ++b;
      }
    }
    for (; a != first.end(); ++a) put(a->key, 0.5 * a->coef, 0.5 * a->coef);
    for (; b != second.end(); ++b) put(b->key, 0.5 * b->coef, -0.5 * b->coef);
    level.sum.set_size(sum - level.sum.begin());
    level.difference.set_size(difference - level.difference.begin());
  }

  const Forest& forest_;
  const std::vector<uint32_t>& digit_;
  const KeyShape shape_;
  TreePath path_;
  std::vector<Level> levels_;  // (path_features + 1): used again at every node of that depth
};

}  // namespace spex
