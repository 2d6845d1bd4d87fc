// The ANOVA kernel on bits, a prior on the Walsh spectrum by order and feature, and its gradient.
#pragma once

#include <cstdint>

#include "isa.h"

namespace spex {

constexpr int kMaxOrder = 8;

// Masks (rows, words) and others (columns, words), packed; relevances (n,) >= 0; variances
// (orders + 1,), 0 <= orders <= kMaxOrder. With z_i = -1 where a mask has feature i and +1 where it
// has not, u_i = (z_i + bias) (z'_i + bias) / (1 + bias^2) of two masks, and e_d the elementary
// symmetric polynomial of degree d,
//
//   K = sum over d <= orders of variances[d] e_d(relevances u) / e_d(relevances)
//
// without the orders whose e_d(relevances) is zero. The recurrence e_d += x_i e_{d-1} has only
// errors of size n eps e_d(|x|).
struct AnovaKernel {
  const uint64_t* masks;
  const uint64_t* others;
  int64_t rows, columns, words, n;
  const double* relevances;
  const double* variances;
  int orders;
  bool same;    // others are the masks: half of the work
  double bias;  // finite
};

// out (rows, columns) = K.
void anova_kernel_cpu(const AnovaKernel& kernel, double* out, Isa isa, int threads);

// The gradient of sum weights K for weights (rows, columns): by_relevance (n,) and by_variance
// (orders + 1,). Keeps n orders 128 bytes a thread.
void anova_kernel_grad_cpu(const AnovaKernel& kernel, const double* weights, double* by_relevance,
                           double* by_variance, Isa isa, int threads);

// out (rows, columns) = the covariance of the Fourier coefficients F[k] of the terms k, which are
// the masks, with the values at the others, whether they are the same or not. In the words above,
// with w_i = (z_i + bias) / (1 + bias^2) of a value's mask,
//
//   C = prod_{i in k} (relevances[i] w_i)
//       * sum over d >= |k| of variances[d] e_{d-|k|}(relevances[i] bias w_i, i not in k)
//                              / e_d(relevances)
//
// Features are multiplied up by pages of 64, and a term has only those made again in which it has a
// feature: what a division would lose where one feature dominates is not lost. Keeps n (256 +
// 6 orders) bytes a thread.
void anova_cross_cpu(const AnovaKernel& terms, double* out, Isa isa, int threads);

}  // namespace spex
