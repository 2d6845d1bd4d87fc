#include "anova_kernel.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "bits.h"
#include "threads.h"

namespace spex {
namespace {

// The kernels of one instruction set and order, and the columns that they take at once.
struct Chosen {
  void (*forward)(const double*, const int64_t*, const double*, int64_t, double*, double*);
  void (*backward)(const double*, const int64_t*, const double*, int64_t, const double*,
                   const double*, double*);
  int wide;
};

}  // namespace
}  // namespace spex

#define SPEX_KERNELS "anova_kernel.inc"
#include "each_isa.h"

namespace spex {
namespace {

constexpr int64_t kTile = 32;  // rows at a time: their places are made once for all columns
constexpr int kMostWide = 16;
constexpr int64_t kPage = 64;     // features whose polynomials are made again for a term
constexpr int64_t kTerms = 4096;  // terms for which those of all pages are made once

// What stands for a feature in a pair of rows, by the row's bit and the column's.
struct ByBits {
  double value[2][2];
};

// z + bias of a mask without a feature and with it, and its square's mean 1 + bias^2; all divided
// by `scale`, so that no square overflows.
struct Shifted {
  explicit Shifted(double bias)
      : scale(std::max(1.0, std::abs(bias))),
        bias(bias / scale),
        norm(1 / scale / scale + this->bias * this->bias),
        z{1 / scale + this->bias, this->bias - 1 / scale} {}
  double scale, bias, norm, z[2];
};

// u of two masks.
ByBits pair_of(double bias) {
  const Shifted x(bias);
  const double one = x.z[0] * x.z[1] / x.norm;
  return {{{x.z[0] * x.z[0] / x.norm, one}, {one, x.z[1] * x.z[1] / x.norm}}};
}

// The polynomials e_0 .. e_orders of the relevances.
std::vector<double> norms(const AnovaKernel& kernel) {
  std::vector<double> e(kernel.orders + 1, 0.0);
  e[0] = 1.0;
  for (int64_t i = 0; i < kernel.n; ++i)
    for (int d = kernel.orders; d >= 1; --d) e[d] += kernel.relevances[i] * e[d - 1];
  return e;
}

int bit(const uint64_t* mask, int64_t i) { return mask[i / 64] >> (i % 64) & 1; }

// table (n, 2, wide) = what stands for each feature, by the bit of a row, in `count` columns from
// `left`, times its relevance if `scaled`; zeros beyond.
void spread(const AnovaKernel& kernel, const ByBits& unit, int wide, int64_t left, int64_t count,
            bool scaled, double* table) {
  for (int64_t i = 0; i < kernel.n; ++i)
    for (int64_t c = 0; c < wide; ++c) {
      const double relevance = c >= count ? 0.0 : scaled ? kernel.relevances[i] : 1.0;
      const int there = c < count ? bit(kernel.others + (left + c) * kernel.words, i) : 0;
      for (int own = 0; own < 2; ++own)
        table[(2 * i + own) * wide + c] = relevance * unit.value[own][there];
    }
}

// Some rows against all columns, `wide` columns at a time.
class Tile {
 public:
  Tile(const AnovaKernel& kernel, const ByBits& unit, int wide, int64_t tile, bool keep)
      : kernel_(kernel),
        unit_(unit),
        wide_(wide),
        keep_(keep),
        top_(tile * kTile),
        bottom_(std::min(kernel.rows, top_ + kTile)),
        places_((bottom_ - top_) * kernel.n),
        table_(2 * kernel.n * wide),
        kept_(keep ? kernel.n * kernel.orders * wide : 0) {
    for (int64_t row = top_; row < bottom_; ++row)
      for (int64_t i = 0; i < kernel.n; ++i)
        places_[(row - top_) * kernel.n + i] =
            (2 * i + bit(kernel.masks + row * kernel.words, i)) * wide;
  }

  // Calls body(row, left, count) for each row and each block of columns [left, left + count);
  // where others are the masks, only up to the diagonal.
  template <typename Body>
  void each(const Body& body) {
    const int64_t columns = kernel_.same ? bottom_ : kernel_.columns;
    for (int64_t left = 0; left < columns; left += wide_) {
      const int64_t here = std::min<int64_t>(wide_, columns - left);
      spread(kernel_, unit_, wide_, left, here, !keep_, table_.data());
      for (int64_t row = top_; row < bottom_; ++row) {
        const int64_t count = kernel_.same ? std::min(here, row + 1 - left) : here;
        if (count > 0) body(row, left, count);
      }
    }
  }

  // e (orders, wide) = the polynomials of the row and the columns that each has just called for.
  void forward(const Chosen& run, int64_t row, double* e) {
    run.forward(table_.data(), places_of(row), kernel_.relevances, kernel_.n,
                keep_ ? kept_.data() : nullptr, e);
  }

  // by_term += the gradient of given . e, after forward.
  void backward(const Chosen& run, int64_t row, const double* given, double* by_term) const {
    run.backward(table_.data(), places_of(row), kernel_.relevances, kernel_.n, kept_.data(), given,
                 by_term);
  }

 private:
  const int64_t* places_of(int64_t row) const { return places_.data() + (row - top_) * kernel_.n; }

  const AnovaKernel& kernel_;
  const ByBits& unit_;
  const int wide_;
  const bool keep_;
  const int64_t top_, bottom_;
  std::vector<int64_t> places_;
  std::vector<double> table_;
  std::vector<double> kept_;  // never empty where kept, for null says that nothing is
};

// bias w of a feature outside of a term, by the bit of the mask; one inside adds nothing there.
ByBits outside_of(double bias) {
  const Shifted x(bias);
  return {{{x.bias * x.z[0] / x.norm, x.bias * x.z[1] / x.norm}, {0.0, 0.0}}};
}

// The features of a mask, ascending; of more than kMaxOrder, one more than that.
struct Features {
  int64_t at[kMaxOrder + 1];
  int count = 0;
};

Features features_of(const AnovaKernel& kernel, int64_t row) {
  Features out;
  for (int64_t i = 0; i < kernel.n; i += 64) {
    uint64_t word = kernel.masks[row * kernel.words + i / 64];
    if (kernel.n - i < 64) word &= (uint64_t{1} << (kernel.n - i)) - 1;
    for (; word != 0 && out.count <= kMaxOrder; word &= word - 1)
      out.at[out.count++] = i + __builtin_ctzll(word);
  }
  return out;
}

// The polynomials of all features but those of a term, at some columns, by pages of features: a
// page that has one of the term is made again, all others are as they were. Polynomials are
// (degree, wide), e_1 first.
class Pages {
 public:
  Pages(const AnovaKernel& kernel, const ByBits& unit, const Chosen* runs, int64_t left,
        int64_t count)
      : kernel_(kernel),
        runs_(runs),
        wide_(runs[1].wide),
        size_(kernel.orders * wide_),
        count_(ceil_div(kernel.n, kPage)),
        table_(2 * kernel.n * wide_),
        own_(count_ * size_),
        before_((count_ + 1) * size_, 0.0),
        after_((count_ + 1) * size_, 0.0) {
    spread(kernel, unit, wide_, left, count, true, table_.data());
    for (int64_t p = 0; p < count_; ++p) {
      page(p, nullptr, nullptr, kernel.orders, &own_[p * size_]);
      std::copy_n(&before_[p * size_], size_, &before_[(p + 1) * size_]);
      multiply(&before_[(p + 1) * size_], &own_[p * size_], kernel.orders);
    }
    for (int64_t p = count_ - 1; p >= 0; --p) {
      std::copy_n(&after_[(p + 1) * size_], size_, &after_[p * size_]);
      multiply(&after_[p * size_], &own_[p * size_], kernel.orders);
    }
  }

  // e (degree, wide) = the polynomials of the features that are not among those of a term.
  void without(const Features& features, int degree, double* e) const {
    if (features.count == 0) {
      std::copy_n(&before_[count_ * size_], degree * wide_, e);
      return;
    }
    const int64_t* next = features.at;
    const int64_t* const end = next + features.count;
    const int64_t first = *next / kPage, last = end[-1] / kPage;
    double again[kMaxOrder * kMostWide];
    std::copy_n(&before_[first * size_], degree * wide_, e);
    for (int64_t p = first; p <= last; ++p) {
      const int64_t* const from = next;
      while (next != end && *next / kPage == p) ++next;
      if (from != next) page(p, from, next, degree, again);
      multiply(e, from == next ? &own_[p * size_] : again, degree);
    }
    multiply(e, &after_[(last + 1) * size_], degree);
  }

 private:
  // e = the polynomials of a page without the features [from, to).
  void page(int64_t p, const int64_t* from, const int64_t* to, int degree, double* e) const {
    const int64_t start = p * kPage, length = std::min(kPage, kernel_.n - start);
    int64_t places[kPage];
    for (int64_t i = 0; i < length; ++i) places[i] = 2 * (start + i) * wide_;
    for (; from != to; ++from) places[*from - start] += wide_;  // where x is zero
    runs_[degree].forward(table_.data(), places, nullptr, length, nullptr, e);
  }

  // e *= other.
  void multiply(double* e, const double* other, int degree) const {
    for (int d = degree; d >= 1; --d)
      for (int c = 0; c < wide_; ++c) {
        double sum = e[(d - 1) * wide_ + c] + other[(d - 1) * wide_ + c];
        for (int j = 1; j < d; ++j) sum += e[(d - j - 1) * wide_ + c] * other[(j - 1) * wide_ + c];
        e[(d - 1) * wide_ + c] = sum;
      }
  }

  const AnovaKernel& kernel_;
  const Chosen* runs_;
  const int wide_;
  const int64_t size_, count_;
  std::vector<double> table_, own_, before_, after_;
};

// out (count,) = the covariances of the coefficient of a term with `count` values from `left`, with
// the polynomials e (orders - |k|, wide) of the features outside of it; null where those have no
// say.
void cross(const AnovaKernel& kernel, const std::vector<double>& largest, const Features& features,
           const double* e, int wide, int64_t left, int64_t count, double* out) {
  const Shifted x(kernel.bias);
  const double inside[] = {x.z[0] / x.norm / x.scale, x.z[1] / x.norm / x.scale};
  const int order = features.count;
  const int most = e == nullptr ? std::min(order, kernel.orders) : kernel.orders;
  for (int64_t c = 0; c < count; ++c) {
    const uint64_t* mask = kernel.others + (left + c) * kernel.words;
    double product = 1.0, sum = 0.0;
    for (int j = 0; j < order; ++j)
      product *= kernel.relevances[features.at[j]] * inside[bit(mask, features.at[j])];
    for (int d = order; d <= most; ++d)
      if (largest[d] > 0) {
        const double rest = d == order ? 1.0 : e[(d - order - 1) * wide + c];
        sum += kernel.variances[d] * (product * rest / largest[d]);
      }
    out[c] = sum;
  }
}

int threads_of(const AnovaKernel& kernel, int threads) {
  const auto steps = kernel.rows * kernel.columns * kernel.n * (kernel.orders + 1);
  return threads_worth(steps / 16, threads);
}

}  // namespace

void anova_kernel_cpu(const AnovaKernel& kernel, double* out, Isa isa, int threads) {
  if (kernel.orders == 0) {
    std::fill_n(out, kernel.rows * kernel.columns, kernel.variances[0]);
    return;
  }
  const std::vector<double> largest = norms(kernel);
  const Chosen run = SPEX_CHOOSE(isa, kernels_of)(kernel.orders);
  const ByBits unit = pair_of(kernel.bias);
  parallel_for(ceil_div(kernel.rows, kTile), threads_of(kernel, threads), [&](int64_t t) {
    Tile tile(kernel, unit, run.wide, t, false);
    double e[kMaxOrder * kMostWide];
    tile.each([&](int64_t row, int64_t left, int64_t count) {
      tile.forward(run, row, e);
      for (int64_t c = 0; c < count; ++c) {
        double sum = kernel.variances[0];
        for (int d = 1; d <= kernel.orders; ++d)
          if (largest[d] > 0) sum += kernel.variances[d] * (e[(d - 1) * run.wide + c] / largest[d]);
        out[row * kernel.columns + left + c] = sum;
        if (kernel.same) out[(left + c) * kernel.columns + row] = sum;
      }
    });
  });
}

void anova_kernel_grad_cpu(const AnovaKernel& kernel, const double* weights, double* by_relevance,
                           double* by_variance, Isa isa, int threads) {
  const int orders = kernel.orders;
  const int64_t n = kernel.n, tiles = ceil_div(kernel.rows, kTile), size = n + orders + 1;
  std::vector<double> parts(tiles *
                            size);  // of each tile: by relevance at fixed norms, by variance
  if (orders == 0) {
    std::fill_n(by_relevance, n, 0.0);
    by_variance[0] = 0.0;
    for (int64_t i = 0; i < kernel.rows * kernel.columns; ++i) by_variance[0] += weights[i];
    return;
  }
  const std::vector<double> largest = norms(kernel);
  const Chosen run = SPEX_CHOOSE(isa, kernels_of)(orders);
  const ByBits unit = pair_of(kernel.bias);
  parallel_for(tiles, threads_of(kernel, threads), [&](int64_t t) {
    double* part = parts.data() + t * size;
    double* variance = part + n;
    std::vector<double> by_term(n * run.wide);
    Tile tile(kernel, unit, run.wide, t, true);
    double e[kMaxOrder * kMostWide];
    tile.each([&](int64_t row, int64_t left, int64_t count) {
      tile.forward(run, row, e);
      double given[kMaxOrder * kMostWide] = {};
      for (int64_t c = 0; c < count; ++c) {
        const int64_t column = left + c;
        double weight = weights[row * kernel.columns + column];
        if (kernel.same && column < row) weight += weights[column * kernel.columns + row];
        variance[0] += weight;
        for (int d = 1; d <= orders; ++d)
          if (largest[d] > 0) {
            variance[d] += weight * (e[(d - 1) * run.wide + c] / largest[d]);
            given[(d - 1) * run.wide + c] = weight * kernel.variances[d] / largest[d];
          }
      }
      tile.backward(run, row, given, by_term.data());
    });
    for (int64_t i = 0; i < n * run.wide; ++i) part[i / run.wide] += by_term[i];
  });
  std::fill_n(by_relevance, n, 0.0);
  std::fill_n(by_variance, orders + 1, 0.0);
  for (int64_t t = 0; t < tiles; ++t) {
    for (int64_t i = 0; i < n; ++i) by_relevance[i] += parts[t * size + i];
    for (int d = 0; d <= orders; ++d) by_variance[d] += parts[t * size + n + d];
  }

  // The norms depend on the relevances too. They are the polynomials of a mask with itself for bias
  // 0, where u is one.
  const uint64_t* mask = kernel.masks;
  const AnovaKernel self{mask,   mask, 1,  1, kernel.words, n, kernel.relevances, kernel.variances,
                         orders, true, 0.0};
  const ByBits agree = pair_of(0.0);
  if (kernel.rows == 0) return;
  std::vector<double> by_term(n * run.wide);
  Tile tile(self, agree, run.wide, 0, true);
  double e[kMaxOrder * kMostWide];
  tile.each([&](int64_t row, int64_t, int64_t) {
    tile.forward(run, row, e);
    double given[kMaxOrder * kMostWide] = {};
    for (int d = 1; d <= orders; ++d)
      if (largest[d] > 0)
        given[(d - 1) * run.wide] = -by_variance[d] * kernel.variances[d] / largest[d];
    tile.backward(run, row, given, by_term.data());
  });
  for (int64_t i = 0; i < n; ++i) by_relevance[i] += by_term[i * run.wide];
}

void anova_cross_cpu(const AnovaKernel& terms, double* out, Isa isa, int threads) {
  const std::vector<double> largest = norms(terms);
  const ByBits outside = outside_of(terms.bias);
  Chosen runs[kMaxOrder + 1];
  for (int d = 1; d <= kMaxOrder; ++d) runs[d] = SPEX_CHOOSE(isa, kernels_of)(d);
  const int wide = runs[1].wide;
  const int64_t blocks = ceil_div(terms.columns, wide), parts = ceil_div(terms.rows, kTerms);
  const int64_t steps = (terms.n + terms.rows * kPage) * terms.columns * (terms.orders + 1);
  parallel_for(blocks * parts, threads_worth(steps / 16, threads), [&](int64_t job) {
    const int64_t left = job % blocks * wide;
    const int64_t count = std::min<int64_t>(wide, terms.columns - left);
    const int64_t top = job / blocks * kTerms, bottom = std::min(terms.rows, top + kTerms);
    std::unique_ptr<Pages> pages;  // where features outside of a term have a say
    double e[kMaxOrder * kMostWide];
    for (int64_t row = top; row < bottom; ++row) {
      const Features features = features_of(terms, row);
      const int above = terms.orders - features.count;
      const bool apart = terms.bias == 0 || above <= 0;
      if (!apart) {
        if (!pages) pages = std::make_unique<Pages>(terms, outside, runs, left, count);
        pages->without(features, above, e);
      }
      cross(terms, largest, features, apart ? nullptr : e, wide, left, count,
            out + row * terms.columns + left);
    }
  });
}

}  // namespace spex
