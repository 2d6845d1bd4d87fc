#include "fwht.h"

#include <algorithm>

#include "bits.h"
#include "fwht_kernel.h"
#include "threads.h"

namespace spex {

namespace {

constexpr int64_t kThreadValues = int64_t{1} << 18;  // less work than this is not worth a thread
constexpr int64_t kBlockValues = int64_t{1} << 15;   // rows are shared out in blocks of about this
constexpr int kSplitLog = 17;                        // rows from 2**17 values may be split
constexpr int kPartLog = 14;                         // into parts of at least 2**14

// Rows shared among threads, each row whole.
template <typename T>
void share_rows(const FwhtKernel<T>& kernel, const T* in, T* out, int64_t rows, int b,
                int threads) {
  const int64_t step = std::max<int64_t>(1, kBlockValues >> b);
  parallel_for(ceil_div(rows, step), threads, [&](int64_t block) {
    const int64_t first = block * step;
    kernel.rows[b](in + (first << b), out + (first << b), std::min(step, rows - first));
  });
}

// One row shared among threads: first its parts of 2**p values, then the stages above, three at a
// time, on blocks of columns.
template <typename T>
void share_row(const FwhtKernel<T>& kernel, const T* in, T* out, int b, int threads) {
  int p = b;
  while (p > kPartLog + kFwhtLogRadix - 1 && (int64_t{1} << (b - p)) < 4 * threads)
    p -= kFwhtLogRadix;
  share_rows(kernel, in, out, int64_t{1} << (b - p), p, threads);
  while (p < b) {
    p += kFwhtLogRadix;
    const int64_t columns = int64_t{1} << (p - kFwhtLogRadix);
    const int64_t step = std::min(columns, kBlockValues >> kFwhtLogRadix);
    const int64_t steps = columns / step;  // a power of two, as columns and step are
    parallel_for(steps << (b - p), threads, [&](int64_t block) {
      const int64_t begin = block % steps * step;
      kernel.last_stages[p](out + (block / steps << p), begin, begin + step);
    });
  }
}

// Whole rows where they keep all threads busy: then no thread waits for another within a row.
template <typename T>
void transform(const FwhtKernel<T>& kernel, const T* in, T* out, int64_t rows, int b, int threads) {
  if (rows == 0) return;
  threads = static_cast<int>(std::min<int64_t>(threads, (rows << b) / kThreadValues));
  if (threads <= 1) {
    kernel.rows[b](in, out, rows);
  } else if (b < kSplitLog || rows >= 4 * threads || rows % threads == 0) {
    share_rows(kernel, in, out, rows, b, threads);
  } else {
    for (int64_t r = 0; r < rows; ++r) share_row(kernel, in + (r << b), out + (r << b), b, threads);
  }
}

const FwhtKernels& kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return fwht_avx512;
  if (isa >= Isa::avx2) return fwht_avx2;
#endif
  static constexpr FwhtKernels portable = fwht_kernels<16>();
  return portable;
}

}  // namespace

void fwht_cpu(const float* in, float* out, int64_t rows, int log_n, Isa isa, int threads) {
  transform(kernels(isa).f32, in, out, rows, log_n, threads);
}

void fwht_cpu(const double* in, double* out, int64_t rows, int log_n, Isa isa, int threads) {
  transform(kernels(isa).f64, in, out, rows, log_n, threads);
}

}  // namespace spex
