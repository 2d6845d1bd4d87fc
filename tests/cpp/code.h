// A BCH code for the C++ tests, made from its definition: the tables that spex_core/codes.py makes.
#pragma once

#include <set>
#include <vector>

#include "bch.h"

namespace spex_test {

class TestCode {
 public:
  // primitive: the field's polynomial, bit i the coefficient of x^i; parities must fit in 63 bits.
  TestCode(int m, int primitive, int t, int64_t n) : m_(m), t_(t), n_(n) {
    const int order = (1 << m) - 1;
    exp_.resize(2 * order);
    log_.resize(order + 1);
    for (int i = 0, x = 1; i < order; ++i) {
      exp_[i] = exp_[i + order] = x;
      log_[x] = i;
      x <<= 1;
      if (x >> m) x ^= primitive;
    }
    std::set<int> roots;
    for (int first = 1; first < 2 * t; first += 2)
      for (int e = first % order; roots.insert(e).second;) e = 2 * e % order;
    std::vector<int> poly{1};  // lowest degree first
    for (const int root : roots) {
      std::vector<int> next(poly.size() + 1);
      for (size_t i = 0; i < poly.size(); ++i) {
        next[i + 1] ^= poly[i];
        if (poly[i]) next[i] ^= exp_[log_[poly[i]] + root];
      }
      poly = next;
    }
    parities_ = static_cast<int>(roots.size());
    uint64_t generator = 0;
    for (size_t i = 0; i < poly.size(); ++i) generator |= static_cast<uint64_t>(poly[i]) << i;
    const uint64_t top = uint64_t{1} << parities_;
    for (uint64_t rest = generator ^ top; columns_.size() < static_cast<size_t>(n);) {
      columns_.push_back(rest << 1);
      rest <<= 1;
      if (rest & top) rest ^= generator;
    }
    for (int q = 0; q < parities_; ++q)
      for (int j = 0; j < t; ++j) syndromes_.push_back(exp_[(2 * j + 1) * q % order]);
  }

  spex::BchCode view() const {
    return {m_, t_, parities_, n_, exp_.data(), log_.data(), syndromes_.data(), columns_.data(), 1};
  }
  int delays() const { return 1 + parities_; }

 private:
  int m_, t_, parities_ = 0;
  int64_t n_;
  std::vector<int32_t> exp_, log_, syndromes_;
  std::vector<uint64_t> columns_;
};

}  // namespace spex_test
