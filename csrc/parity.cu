// Parities on a device. Masks are transposed first, so that a feature's bits at 64 masks are one
// word; the parities of a term at 64 masks are then the XOR of the words of its features.
#include <algorithm>

#include "bits.h"
#include "launch.cuh"
#include "parity.h"

namespace spex {
namespace {

constexpr int kThreads = 256;  // of a block
constexpr int kWarps = kThreads / 32;

// Where word `word` of 8 of a row lies in shared memory: swizzled, so that neither half a warp that
// has one word of 16 rows nor one that has all words of two meets in a bank.
__device__ int swizzled(int row, int word) { return row * 8 + (word ^ (row / 2 % 8)); }

__device__ uint64_t load(const uint64_t* from) {
  note_access(from, sizeof(*from));
  return *from;
}
__device__ void store(uint64_t* to, uint64_t word) {
  note_access(to, sizeof(*to));
  *to = word;
}

// One stage of the transposition of 64 words of 64 bits, of which each lane has rows lane and
// lane + 32: of two rows that differ in bit `distance`, what lies outside `keep` in the first
// changes places with what lies inside it in the second.
__device__ uint64_t swapped(uint64_t row, int lane, int distance, uint64_t keep) {
  const uint64_t other = __shfl_xor_sync(0xFFFFFFFFu, row, distance);
  if (lane & distance) return row ^ (((other >> distance) ^ row) & keep);
  return row ^ ((((row >> distance) ^ other) & keep) << distance);
}

// out (64 words, groups): bit i of word g of row j is bit j of mask 64 g + i. A block takes one
// word of the masks of kWarps groups, a warp a square of 64 by 64 bits.
__global__ void __launch_bounds__(kThreads)
    bit_columns(const uint64_t* masks, int64_t samples, int64_t words, int64_t groups,
                uint64_t* out) {
  static_assert(kWarps == 8, "a row of 8 words");
  SPEX_DYNAMIC_SHARED(uint64_t, columns);  // (64, kWarps), swizzled
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t word = blockIdx.x % words, first = blockIdx.x / words * kWarps;
  uint64_t row[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t sample = (first + warp) * 64 + 32 * half + lane;
    row[half] = sample < samples ? masks[sample * words + word] : 0;
  }
  const uint64_t swap = ((row[0] >> 32) ^ row[1]) & 0x00000000FFFFFFFFu;
  row[0] ^= swap << 32;
  row[1] ^= swap;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    row[half] = swapped(row[half], lane, 16, 0x0000FFFF0000FFFFu);
    row[half] = swapped(row[half], lane, 8, 0x00FF00FF00FF00FFu);
    row[half] = swapped(row[half], lane, 4, 0x0F0F0F0F0F0F0F0Fu);
    row[half] = swapped(row[half], lane, 2, 0x3333333333333333u);
    row[half] = swapped(row[half], lane, 1, 0x5555555555555555u);
    store(columns + swizzled(32 * half + lane, warp), row[half]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 64 * kWarps; i += kThreads) {
    const int64_t group = first + i % kWarps;
    const uint64_t bits = load(columns + swizzled(i / kWarps, i % kWarps));
    if (group < groups) out[(word * 64 + i / kWarps) * groups + group] = bits;
  }
}

// A thread 64 masks of one term; neighbours take neighbouring masks.
__global__ void __launch_bounds__(kThreads)
    parities(const uint64_t* columns, const uint64_t* support, int64_t terms, int64_t words,
             int64_t groups, uint64_t* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= terms * groups) return;
  const int64_t term = i / groups, group = i % groups;
  uint64_t bits = 0;
  for (int64_t w = 0; w < words; ++w)
    for (uint64_t left = support[term * words + w]; left; left &= left - 1)
      bits ^= columns[(w * 64 + lowest_bit(left)) * groups + group];
  out[i] = bits;
}

// A thread kMasks masks, a power of two up to 32: their sums stay in registers.
template <int kMasks>
__global__ void __launch_bounds__(kThreads)
    sum_over_terms(const uint32_t* bits, const double* coefs, int64_t samples, int64_t terms,
                   int64_t halves, double* out) {
  const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kMasks;
  if (first >= samples) return;
  double sum[kMasks] = {};
  for (int64_t s = 0; s < terms; ++s) {
    const uint32_t word = bits[s * halves + first / 32] >> (first % 32);
    const double coef = coefs[s];
#pragma unroll
    for (int i = 0; i < kMasks; ++i) sum[i] += word >> i & 1 ? -coef : coef;
  }
#pragma unroll
  for (int i = 0; i < kMasks; ++i)
    if (first + i < samples) out[first + i] = sum[i];
}

// A thread one term and one span of masks; threads of a block have neighbouring terms, so that all
// read the same value.
__global__ void __launch_bounds__(kThreads)
    sum_over_spans(const uint64_t* bits, const double* values, int64_t samples, int64_t terms,
                   int64_t groups, int64_t stride, double* out) {
  const int64_t blocks = ceil_div(terms, kThreads);
  const int64_t term = blockIdx.x % blocks * kThreads + threadIdx.x, span = blockIdx.x / blocks;
  if (term >= terms) return;
  const int64_t end = samples < (span + 1) * kParitySpan ? samples : (span + 1) * kParitySpan;
  double sum = 0;
  for (int64_t i = span * kParitySpan; i < end; i += 64) {
    const uint64_t word = bits[term * groups + i / 64];
    const int count = end - i < 64 ? static_cast<int>(end - i) : 64;
    for (int j = 0; j < count; ++j) sum += word >> j & 1 ? -values[i + j] : values[i + j];
  }
  out[term * stride + span] = sum;
}

__global__ void __launch_bounds__(kThreads)
    sum_of_spans(const double* sums, int64_t terms, int64_t spans, double* out) {
  const int64_t term = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (term >= terms) return;
  double sum = 0;
  for (int64_t i = 0; i < spans; ++i) sum += sums[term * spans + i];
  out[term] = sum;
}

constexpr int kTile = 64;      // terms of a tile of the Gram matrix
constexpr int kTileWords = 8;  // words of their columns in shared memory at a time
constexpr int kPairs = 4;      // terms a thread takes of either side

// A tile on or above the diagonal, and its mirror image.
__global__ void __launch_bounds__(kThreads, 1)
    gram(const uint64_t* columns, int64_t terms, int64_t words, int64_t samples, double* out) {
  static_assert(kTileWords == 8, "a row of 8 words");
  SPEX_DYNAMIC_SHARED(uint64_t, shared);  // (2, kTile, kTileWords), swizzled
  int64_t down = 0, across = blockIdx.x;  // the tile: row by row above the diagonal
  for (int64_t tiles = ceil_div(terms, kTile); across >= tiles - down; ++down)
    across -= tiles - down;
  across += down;
  uint64_t* const other = shared + kTile * kTileWords;
  const int x = threadIdx.x % (kTile / kPairs), y = threadIdx.x / (kTile / kPairs);
  int64_t differ[kPairs][kPairs] = {};
  for (int64_t first = 0; first < words; first += kTileWords) {
    for (int i = threadIdx.x; i < kTile * kTileWords; i += kThreads) {
      const int64_t word = first + i % kTileWords;
      const int64_t a = down * kTile + i / kTileWords, b = across * kTile + i / kTileWords;
      const int at = swizzled(i / kTileWords, i % kTileWords);
      store(shared + at, a < terms && word < words ? columns[a * words + word] : 0);
      store(other + at, b < terms && word < words ? columns[b * words + word] : 0);
    }
    __syncthreads();
    int count[kPairs][kPairs] = {};
#pragma unroll 1
    for (int w = 0; w < kTileWords; ++w) {
      uint64_t a[kPairs], b[kPairs];
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        a[i] = load(shared + swizzled(y + i * (kTile / kPairs), w));
        b[i] = load(other + swizzled(x + i * (kTile / kPairs), w));
      }
#pragma unroll
      for (int i = 0; i < kPairs; ++i)
#pragma unroll
        for (int j = 0; j < kPairs; ++j) count[i][j] += popcount(a[i] ^ b[j]);
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
#pragma unroll
      for (int j = 0; j < kPairs; ++j) differ[i][j] += count[i][j];
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i)
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int64_t s = down * kTile + y + i * (kTile / kPairs);
      const int64_t u = across * kTile + x + j * (kTile / kPairs);
      if (s >= terms || u >= terms) continue;
      const double inner = static_cast<double>(samples - 2 * differ[i][j]);
      out[s * terms + u] = inner;
      out[u * terms + s] = inner;
    }
}

}  // namespace

void parity_bits_cuda(const uint64_t* masks, const uint64_t* support, int64_t samples,
                      int64_t terms, int64_t words, uint64_t* columns, uint64_t* out,
                      const Place& place) {
  const int64_t groups = ceil_div(samples, 64);
  if (groups == 0 || terms == 0) return;
  if (words > 0)
    launch(bit_columns, ceil_div(groups, kWarps) * words, kThreads,
           static_cast<int>(64 * kWarps * sizeof(uint64_t)), place, masks, samples, words, groups,
           columns);
  launch(parities, ceil_div(terms * groups, kThreads), kThreads, 0, place,
         static_cast<const uint64_t*>(columns), support, terms, words, groups, out);
}

void sum_over_terms_cuda(const uint64_t* bits, const double* coefs, int64_t samples, int64_t terms,
                         int masks_each, double* out, const Place& place) {
  if (samples == 0) return;
  const auto kernel = masks_each == 32  ? sum_over_terms<32>
                      : masks_each == 8 ? sum_over_terms<8>
                                        : sum_over_terms<1>;
  launch(kernel, ceil_div(ceil_div(samples, masks_each), kThreads), kThreads, 0, place,
         reinterpret_cast<const uint32_t*>(bits), coefs, samples, terms, 2 * ceil_div(samples, 64),
         out);
}

void sum_over_spans_cuda(const uint64_t* bits, const double* values, int64_t samples, int64_t terms,
                         int64_t stride, double* out, const Place& place) {
  if (samples == 0 || terms == 0) return;
  launch(sum_over_spans, ceil_div(terms, kThreads) * ceil_div(samples, kParitySpan), kThreads, 0,
         place, bits, values, samples, terms, ceil_div(samples, 64), stride, out);
}

void sum_of_spans_cuda(const double* sums, int64_t terms, int64_t spans, double* out,
                       const Place& place) {
  if (terms == 0) return;
  launch(sum_of_spans, ceil_div(terms, kThreads), kThreads, 0, place, sums, terms, spans, out);
}

void parity_gram_cuda(const uint64_t* columns, int64_t terms, int64_t samples, double* out,
                      const Place& place) {
  if (terms == 0) return;
  const int64_t tiles = ceil_div(terms, kTile);
  launch(gram, tiles * (tiles + 1) / 2, kThreads,
         static_cast<int>(2 * kTile * kTileWords * sizeof(uint64_t)), place, columns, terms,
         ceil_div(samples, 64), samples, out);
}

}  // namespace spex
