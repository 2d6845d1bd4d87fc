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
      spread(left, here);
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

  // table_ (n, 2, wide), by the bit of the row, of `here` columns from `left`, and zeros.
  void spread(int64_t left, int64_t here) {
    for (int64_t i = 0; i < kernel_.n; ++i)
      for (int64_t c = 0; c < wide_; ++c) {
        const double relevance = c >= here ? 0.0 : keep_ ? 1.0 : kernel_.relevances[i];
        const int there = c < here ? bit(kernel_.others + (left + c) * kernel_.words, i) : 0;
        for (int own = 0; own < 2; ++own)
          table_[(2 * i + own) * wide_ + c] = relevance * unit_.value[own][there];
      }
  }

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

std::vector<int64_t> features_of(const AnovaKernel& kernel, int64_t row) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < kernel.n; ++i)
    if (bit(kernel.masks + row * kernel.words, i)) out.push_back(i);
  return out;
}

// out (count,) = the covariances of the coefficient of a term with `count` values from `left`, with
// the polynomials e (orders - |k|, wide) of the features outside of it; null where those have no
// say.
void cross(const AnovaKernel& kernel, const std::vector<double>& largest,
           const std::vector<int64_t>& features, const double* e, int wide, int64_t left,
           int64_t count, double* out) {
  const Shifted x(kernel.bias);
  const double inside[] = {x.z[0] / x.norm / x.scale, x.z[1] / x.norm / x.scale};
  const int order = static_cast<int>(features.size());
  const int most = e == nullptr ? std::min(order, kernel.orders) : kernel.orders;
  for (int64_t c = 0; c < count; ++c) {
    const uint64_t* mask = kernel.others + (left + c) * kernel.words;
    double product = 1.0, sum = 0.0;
    for (int64_t i : features) product *= kernel.relevances[i] * inside[bit(mask, i)];
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
  AnovaKernel kernel = terms;
  kernel.same = false;
  const std::vector<double> largest = norms(kernel);
  const ByBits outside = outside_of(kernel.bias);
  Chosen runs[kMaxOrder + 1];
  for (int d = 1; d <= kMaxOrder; ++d) runs[d] = SPEX_CHOOSE(isa, kernels_of)(d);
  const int wide = runs[1].wide;
  parallel_for(ceil_div(kernel.rows, kTile), threads_of(kernel, threads), [&](int64_t t) {
    const int64_t top = t * kTile, bottom = std::min(kernel.rows, top + kTile);
    std::vector<std::vector<int64_t>> features;  // of each term
    bool apart = true;                           // features outside of a term have no say
    for (int64_t row = top; row < bottom; ++row) {
      features.push_back(features_of(kernel, row));
      const int64_t order = features.back().size();
      apart = apart && (kernel.bias == 0 || order >= kernel.orders);
    }
    if (apart) {
      for (int64_t row = top; row < bottom; ++row)
        cross(kernel, largest, features[row - top], nullptr, wide, 0, kernel.columns,
              out + row * kernel.columns);
      return;
    }
    Tile tile(kernel, outside, wide, t, false);
    double e[kMaxOrder * kMostWide];
    tile.each([&](int64_t row, int64_t left, int64_t count) {
      const auto& own = features[row - top];
      const int64_t above = kernel.orders - static_cast<int64_t>(own.size());
      if (above > 0) tile.forward(runs[above], row, e);
      cross(kernel, largest, own, above > 0 ? e : nullptr, wide, left, count,
            out + row * kernel.columns + left);
    });
  });
}

}  // namespace spex
