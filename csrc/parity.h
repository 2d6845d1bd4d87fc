// Parities <m, k> mod 2 of packed masks m and packed supports k, and sums signed by them.
#pragma once

#include <cstdint>

#include "isa.h"
#include "place.h"

namespace spex {

// out (terms, ceil(samples / 64)): bit i of row s is <masks[i], support[s]> mod 2; spare bits are
// zero. A product of two bit matrices over GF(2), with the result packed along the samples.
void parity_bits_cpu(const uint64_t* masks, const uint64_t* support, int64_t samples, int64_t terms,
                     int64_t words, uint64_t* out, Isa isa, int threads);

// out (samples): sum over s of coefs[s] (-1)^<masks[i], support[s]>, each summed in the order of s.
void parity_predict_cpu(const uint64_t* masks, const uint64_t* support, const double* coefs,
                        int64_t samples, int64_t terms, int64_t words, double* out, Isa isa,
                        int threads);

// out (terms): sum over i of values[i] (-1)^<masks[i], support[s]>: the transpose of
// parity_predict.
void parity_adjoint_cpu(const uint64_t* masks, const uint64_t* support, const double* values,
                        int64_t samples, int64_t terms, int64_t words, double* out, Isa isa,
                        int threads);

// out (terms, terms): samples - 2 popcount(columns[s] ^ columns[u]): inner products of +-1 columns
// that are packed along the samples, columns (terms, ceil(samples / 64)) with zero spare bits.
void parity_gram_cpu(const uint64_t* columns, int64_t terms, int64_t samples, double* out, Isa isa,
                     int threads);

// On a device, where all addresses are. The sums are made of parities that parity_bits_cuda made.
constexpr int64_t kParitySpan = 4096;  // samples that are summed by themselves

// columns: (64 words, ceil(samples / 64)) of memory to work in.
void parity_bits_cuda(const uint64_t* masks, const uint64_t* support, int64_t samples,
                      int64_t terms, int64_t words, uint64_t* columns, uint64_t* out,
                      const Place& place);

// out (samples): parity_predict, with the bits of parity_predict_cpu. A thread has masks_each: 1, 8
// or 32.
void sum_over_terms_cuda(const uint64_t* bits, const double* coefs, int64_t samples, int64_t terms,
                         int masks_each, double* out, const Place& place);

// out (terms, stride), of which a row's first ceil(samples / kParitySpan) are written: what each
// span of samples adds to parity_adjoint.
void sum_over_spans_cuda(const uint64_t* bits, const double* values, int64_t samples, int64_t terms,
                         int64_t stride, double* out, const Place& place);

// out (terms): sums (terms, spans) added up in order.
void sum_of_spans_cuda(const double* sums, int64_t terms, int64_t spans, double* out,
                       const Place& place);

void parity_gram_cuda(const uint64_t* columns, int64_t terms, int64_t samples, double* out,
                      const Place& place);

}  // namespace spex
