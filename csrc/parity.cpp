#include "parity.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "bits.h"
#include "parity_block.h"
#include "threads.h"

#define SPEX_KERNELS "parity_sums.inc"
#include "each_isa.h"

namespace spex {
namespace {

// Samples are taken in chunks of whole blocks, which threads share. The split depends on the number
// of samples only, so the bits of a sum over samples do not depend on the number of threads.
constexpr int64_t kMostChunks = 32;

int64_t chunk_samples(int64_t samples) {
  return ceil_div(samples, kMostChunks * kBlockSamples) * kBlockSamples;
}

// Calls use(chunk, first, count, bits) with the parities of samples [first, first + count), the
// blocks of a chunk in their order. Memory: 90 KiB and 64 bytes a term for each thread.
template <typename Use>
void for_each_block(const uint64_t* masks, const uint64_t* support, int64_t samples, int64_t terms,
                    int64_t words, Isa isa, int threads, int64_t use_nanoseconds, const Use& use) {
  if (samples == 0 || terms == 0) return;
  const Terms laid_out(support, terms, words, isa);
  const int64_t chunk = chunk_samples(samples);
  const int64_t nanoseconds =
      ceil_div(samples, kBlockSamples) * (laid_out.nanoseconds() + use_nanoseconds);
  parallel_for(ceil_div(samples, chunk), threads_worth(nanoseconds, threads), [&](int64_t c) {
    const auto scratch = std::make_unique<Terms::Scratch>();
    std::vector<Row> bits(terms);
    const int64_t end = std::min(samples, (c + 1) * chunk);
    for (int64_t first = c * chunk; first < end; first += kBlockSamples) {
      const int64_t count = std::min(kBlockSamples, end - first);
      laid_out.parities(masks + first * words, count, *scratch, bits.data());
      use(c, first, count, bits.data());
    }
  });
}

}  // namespace

void parity_bits_cpu(const uint64_t* masks, const uint64_t* support, int64_t samples, int64_t terms,
                     int64_t words, uint64_t* out, Isa isa, int threads) {
  const int64_t row = ceil_div(samples, 64);
  constexpr int64_t kAhead = 24;  // rows of `out` are far apart, so each is asked for in advance
  for_each_block(masks, support, samples, terms, words, isa, threads, 2 * terms,
                 [=](int64_t, int64_t first, int64_t count, const Row* bits) {
                   uint64_t* to = out + first / 64;
                   for (int64_t s = 0; s < terms; ++s) {
                     __builtin_prefetch(to + std::min(s + kAhead, terms - 1) * row, 1);
                     if (count == kBlockSamples)
                       std::memcpy(to + s * row, bits[s].words, sizeof(Row));
                     else
                       std::copy_n(bits[s].words, ceil_div(count, 64), to + s * row);
                   }
                 });
}

void parity_predict_cpu(const uint64_t* masks, const uint64_t* support, const double* coefs,
                        int64_t samples, int64_t terms, int64_t words, double* out, Isa isa,
                        int threads) {
  std::fill_n(out, samples, 0.0);
  const auto sum_over_terms = SPEX_CHOOSE(isa, sum_over_terms);
  for_each_block(masks, support, samples, terms, words, isa, threads, 40 * terms,
                 [=](int64_t, int64_t first, int64_t count, const Row* bits) {
                   double sums[kBlockSamples];
                   sum_over_terms(bits, coefs, terms, sums);
                   std::copy_n(sums, count, out + first);
                 });
}

void parity_adjoint_cpu(const uint64_t* masks, const uint64_t* support, const double* values,
                        int64_t samples, int64_t terms, int64_t words, double* out, Isa isa,
                        int threads) {
  std::fill_n(out, terms, 0.0);
  if (samples == 0) return;
  const auto sum_over_samples = SPEX_CHOOSE(isa, sum_over_samples);
  const int64_t chunks = ceil_div(samples, chunk_samples(samples));
  std::vector<double> sums(chunks * terms);  // one row a chunk, added in the order of the chunks
  for_each_block(masks, support, samples, terms, words, isa, threads, 40 * terms,
                 [&](int64_t chunk, int64_t first, int64_t count, const Row* bits) {
                   double block[kBlockSamples] = {};
                   std::copy_n(values + first, count, block);
                   sum_over_samples(bits, block, terms, sums.data() + chunk * terms);
                 });
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t s = 0; s < terms; ++s) out[s] += sums[chunk * terms + s];
}

}  // namespace spex
