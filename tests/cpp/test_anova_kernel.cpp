#include <cmath>

#include "anova_kernel.h"
#include "bits.h"
#include "check.h"

using namespace spex_test;

namespace {

struct Shape {
  int64_t rows, columns, n;
  int orders;
  double bias = 0;
};

int bit(const uint64_t* mask, int64_t i) { return mask[i / 64] >> (i % 64) & 1; }

// x_i = relevances[i] (z_i + bias) (z'_i + bias) / (1 + bias^2), z -1 where a mask has feature i.
std::vector<double> terms(const spex::AnovaKernel& k, int64_t row, int64_t column) {
  std::vector<double> x(k.relevances, k.relevances + k.n);
  for (int64_t i = 0; i < k.n; ++i) {
    const int own = 1 - 2 * bit(k.masks + row * k.words, i);
    const int other = 1 - 2 * bit(k.others + column * k.words, i);
    x[i] *= (own + k.bias) * (other + k.bias) / (1 + k.bias * k.bias);
  }
  return x;
}

std::vector<double> polynomials(const std::vector<double>& x, int orders) {
  std::vector<double> e(orders + 1);
  e[0] = 1;
  for (double value : x)
    for (int d = orders; d >= 1; --d) e[d] += value * e[d - 1];
  return e;
}

void check_shape(Shape shape, bool same) {
  const auto [rows, columns, n, orders, bias] = shape;
  const int64_t words = spex::ceil_div(n, 64);
  const auto masks = random_words(rows * words, 1), others = random_words(columns * words, 2);
  auto relevances = random_integers<double>(n, 3);
  for (double& x : relevances) x = std::abs(x) / 9;
  const auto variances = random_integers<double>(orders + 1, 4);
  const auto weights = random_integers<double>(rows * columns, 5);
  const spex::AnovaKernel kernel{masks.data(),
                                 same ? masks.data() : others.data(),
                                 rows,
                                 columns,
                                 words,
                                 n,
                                 relevances.data(),
                                 variances.data(),
                                 orders,
                                 same,
                                 bias};

  const auto largest = polynomials(relevances, orders);
  std::vector<double> want(rows * columns), by_variance(orders + 1);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      const auto e = polynomials(terms(kernel, row, column), orders);
      for (int d = 0; d <= orders; ++d)
        if (largest[d] > 0) {
          want[row * columns + column] += variances[d] * e[d] / largest[d];
          by_variance[d] += weights[row * columns + column] * e[d] / largest[d];
        }
    }

  std::vector<double> first;
  for_each_way([&](spex::Isa isa, int threads) {
    auto out = garbage<double>(rows * columns);
    spex::anova_kernel_cpu(kernel, out.data(), isa, threads);
    auto relevance = garbage<double>(n), variance = garbage<double>(orders + 1);
    spex::anova_kernel_grad_cpu(kernel, weights.data(), relevance.data(), variance.data(), isa,
                                threads);
    const auto close = [&](const std::vector<double>& got, const std::vector<double>& right,
                           double bound, const char* what) {
      for (size_t i = 0; i < right.size(); ++i)
        CHECK(std::abs(got[i] - right[i]) <= bound,
              "%s rows=%ld columns=%ld n=%ld orders=%d bias=%g isa=%d threads=%d", what, long(rows),
              long(columns), long(n), orders, bias, int(isa), threads);
    };
    const double most = bias == 0 ? 1 : std::pow(2.0, orders);  // of e_d over the norm
    close(out, want, 1e-12 * most * (n + 1), "anova_kernel");
    close(variance, by_variance, 1e-11 * most * (n + 1) * (rows * columns + 1), "by variance");
    // The kernel does not change when all relevances grow alike.
    double scaled = 0, size = 1;
    for (int64_t i = 0; i < n; ++i) {
      scaled += relevance[i] * relevances[i];
      size += std::abs(relevance[i] * relevances[i]);
    }
    CHECK(std::abs(scaled) <= 1e-11 * most * size * (n + 1), "gradient n=%ld orders=%d", long(n),
          orders);
    if (first.empty()) first = relevance;
    close(relevance, first, 1e-10 * most * (rows * columns + 1) * (n + 1), "by relevance");
  });
}

// Terms of row % (orders + 2) features, the last ones, against the formula.
void check_cross(Shape shape) {
  const auto [rows, columns, n, orders, bias] = shape;
  const int64_t words = spex::ceil_div(n, 64);
  const auto masks = random_words(columns * words, 2);
  std::vector<uint64_t> support(rows * words);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = n - std::min(n, row % (orders + 2)); i < n; ++i)
      support[row * words + i / 64] |= uint64_t{1} << (i % 64);
  auto relevances = random_integers<double>(n, 3);
  for (double& x : relevances) x = std::abs(x) / 9;
  const auto variances = random_integers<double>(orders + 1, 4);
  const spex::AnovaKernel terms{support.data(),    masks.data(),     rows,   columns, words, n,
                                relevances.data(), variances.data(), orders, false,   bias};

  const auto largest = polynomials(relevances, orders);
  std::vector<double> want(rows * columns);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      double product = 1;
      int order = 0;
      std::vector<double> rest;
      for (int64_t i = 0; i < n; ++i) {
        const int z = 1 - 2 * bit(masks.data() + column * words, i);
        const double weight = relevances[i] * (z + bias) / (1 + bias * bias);
        if (bit(support.data() + row * words, i)) {
          product *= weight;
          ++order;
        } else {
          rest.push_back(bias * weight);
        }
      }
      const auto e = polynomials(rest, orders);
      for (int d = order; d <= orders; ++d)
        if (largest[d] > 0)
          want[row * columns + column] += variances[d] * product * e[d - order] / largest[d];
    }

  for_each_way([&](spex::Isa isa, int threads) {
    auto out = garbage<double>(rows * columns);
    spex::anova_cross_cpu(terms, out.data(), isa, threads);
    for (size_t i = 0; i < want.size(); ++i)
      CHECK(std::abs(out[i] - want[i]) <= 1e-12 * (n + 1),
            "anova_cross rows=%ld columns=%ld n=%ld orders=%d bias=%g isa=%d threads=%d",
            long(rows), long(columns), long(n), orders, bias, int(isa), threads);
  });
}

}  // namespace

void test_anova_kernel() {
  for (int orders : {0, 1, 2, 4, 8})
    for (int64_t n : {1, 3, 64, 65}) {
      check_shape({33, 17, n, orders}, false);
      check_shape({35, 35, n, orders}, true);
      check_shape({33, 33, n, orders, 1.0}, true);
    }
  check_shape({0, 5, 4, 3}, false);
  check_shape({5, 0, 4, 3}, false);
  check_shape({2, 65, 130, 3}, false);
  check_shape({2, 65, 130, 3, -0.3}, false);

  for (int orders : {0, 1, 4, 8})
    for (int64_t n : {1, 3, 65})
      for (double bias : {0.0, 1.0, -0.3}) check_cross({35, 17, n, orders, bias});
  check_cross({35, 17, 330, 5, 1.0});
  check_cross({0, 5, 4, 3, 1.0});
  check_cross({5, 0, 4, 3, 1.0});
}
