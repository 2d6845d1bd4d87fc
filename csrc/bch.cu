// Decoding on a device: a thread for each row and some of its flip patterns, then the best of a
// row.
#include "bch.h"
#include "chase.h"
#include "launch.cuh"

namespace spex {
namespace {

constexpr int kThreads = 128;  // of a block

// Slot row * slices + slice: what the slice's patterns decode to, with the largest score.
__global__ void __launch_bounds__(kThreads, 1)
    bch_slices(BchCode code, const double* readings, int64_t slots, int flips, int slices,
               BchSlots out) {
  const int64_t slot = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (slot >= slots) return;
  const int shifts = 1 + code.parities;
  const double* r = readings + slot / slices * shifts;
  const uint32_t patterns = (uint32_t{1} << flips) / slices;
  const uint32_t first = static_cast<uint32_t>(slot % slices) * patterns;
  int32_t* features = out.features + slot * code.t;
  double best = -1;
  int32_t size = -1;
  ChaseRow row;
  chase_begin(code, r, flips, row);
  chase_patterns(code, row, first, first + patterns, [&](const int32_t* found, int count) {
    uint64_t bits[kMaxWords];
    delay_bits(code, found, count, bits);
    const double score = fabs(signed_sum(bits, r, shifts));
    if (score <= best) return;
    best = score;
    size = count;
    for (int i = 0; i < count; ++i) features[i] = found[i];
  });
  out.scores[slot] = best;
  out.counts[slot] = size;
}

// The first slot of the largest score of each row.
__global__ void __launch_bounds__(kThreads, 1)
    bch_best(BchSlots in, int64_t rows, int slices, int t, int32_t* features, int32_t* counts) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  int64_t best = row * slices;
  for (int64_t slot = best + 1; slot < (row + 1) * slices; ++slot)
    if (in.scores[slot] > in.scores[best]) best = slot;
  counts[row] = in.counts[best];
  for (int i = 0; i < t; ++i)
    features[row * t + i] = i < counts[row] ? in.features[best * t + i] : -1;
}

}  // namespace

void bch_decode_cuda(const BchCode& code, const double* readings, int64_t rows, int flips,
                     int slices, const BchSlots& slots, int32_t* features, int32_t* counts,
                     const Place& place) {
  if (rows == 0) return;
  launch(bch_slices, ceil_div(rows * slices, kThreads), kThreads, 0, place, code, readings,
         rows * slices, flips, slices, slots);
  launch(bch_best, ceil_div(rows, kThreads), kThreads, 0, place, slots, rows, slices, code.t,
         features, counts);
}

}  // namespace spex
