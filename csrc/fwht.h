// Walsh-Hadamard transform of rows, unnormalised: out[r][k] = sum_j (-1)^popcount(j & k) in[r][j].
#pragma once

#include <cstdint>

#include "isa.h"
#include "place.h"

namespace spex {

// in, out: (rows, 2**log_n), row-major and contiguous; in == out transforms in place, any other
// overlap is not allowed. 0 <= log_n <= 24, rows >= 0. Threads share rows, and share one row when
// there are fewer rows than threads. Same bits for any number of threads.
void fwht_cpu(const float* in, float* out, int64_t rows, int log_n, Isa isa, int threads);
void fwht_cpu(const double* in, double* out, int64_t rows, int log_n, Isa isa, int threads);

// The same on a device, in its memory: both addresses and the size of all rows are multiples of 16
// bytes. Same bits as fwht_cpu. One pass to log_n = 15 (float32) or 14 (float64), one less where a
// block has less than 128 KiB of shared memory; two above.
void fwht_cuda(const float* in, float* out, int64_t rows, int log_n, const Place& place);
void fwht_cuda(const double* in, double* out, int64_t rows, int log_n, const Place& place);

}  // namespace spex
