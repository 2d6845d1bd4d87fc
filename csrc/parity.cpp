#include "parity.h"

#include <algorithm>

#include "bits.h"
#include "threads.h"

namespace spex {
namespace {

int parity_of(const uint64_t* m, const uint64_t* k, int64_t words) {
  uint64_t acc = 0;
  for (int64_t w = 0; w < words; ++w) acc ^= m[w] & k[w];
  return parity(acc);
}

}  // namespace

void parity_bits_cpu(const uint64_t* masks, const uint64_t* support, int64_t samples, int64_t terms,
                     int64_t words, uint64_t* out, Isa, int threads) {
  const int64_t row = ceil_div(samples, 64);
  parallel_for(terms, threads, [=](int64_t s) {
    std::fill_n(out + s * row, row, 0);
    for (int64_t i = 0; i < samples; ++i)
      out[s * row + i / 64] |=
          static_cast<uint64_t>(parity_of(masks + i * words, support + s * words, words)) << (i % 64);
  });
}

void parity_predict_cpu(const uint64_t* masks, const uint64_t* support, const double* coefs,
                        int64_t samples, int64_t terms, int64_t words, double* out, Isa,
                        int threads) {
  parallel_for(samples, threads, [=](int64_t i) {
    double sum = 0;
    for (int64_t s = 0; s < terms; ++s)
      sum += parity_of(masks + i * words, support + s * words, words) ? -coefs[s] : coefs[s];
    out[i] = sum;
  });
}

void parity_adjoint_cpu(const uint64_t* masks, const uint64_t* support, const double* values,
                        int64_t samples, int64_t terms, int64_t words, double* out, Isa,
                        int threads) {
  parallel_for(terms, threads, [=](int64_t s) {
    double sum = 0;
    for (int64_t i = 0; i < samples; ++i)
      sum += parity_of(masks + i * words, support + s * words, words) ? -values[i] : values[i];
    out[s] = sum;
  });
}

void parity_gram_cpu(const uint64_t* columns, int64_t terms, int64_t samples, double* out, Isa,
                     int threads) {
  const int64_t row = ceil_div(samples, 64);
  parallel_for(terms, threads, [=](int64_t s) {
    for (int64_t u = 0; u <= s; ++u) {
      int64_t differ = 0;
      for (int64_t i = 0; i < row; ++i) differ += popcount(columns[s * row + i] ^ columns[u * row + i]);
      out[s * terms + u] = out[u * terms + s] = static_cast<double>(samples - 2 * differ);
    }
  });
}

}  // namespace spex
