#include "fwht.h"

#include <cstring>

#include "threads.h"

namespace spex {
namespace {

template <typename T>
void rows_portable(const T* in, T* out, int64_t rows, int log_n, int threads) {
  const int64_t n = int64_t{1} << log_n;
  parallel_for(rows, threads, [=](int64_t row) {
    T* x = out + row * n;
    if (in != out) std::memcpy(x, in + row * n, sizeof(T) * n);
    for (int64_t h = 1; h < n; h *= 2)
      for (int64_t i = 0; i < n; i += 2 * h)
        for (int64_t j = i; j < i + h; ++j) {
          const T a = x[j], b = x[j + h];
          x[j] = a + b;
          x[j + h] = a - b;
        }
  });
}

}  // namespace

void fwht_cpu(const float* in, float* out, int64_t rows, int log_n, Isa, int threads) {
  rows_portable(in, out, rows, log_n, threads);
}
void fwht_cpu(const double* in, double* out, int64_t rows, int log_n, Isa, int threads) {
  rows_portable(in, out, rows, log_n, threads);
}

}  // namespace spex
