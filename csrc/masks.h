// Masks made where they are used, and unpacked: packed, feature j = bit j % 64 of word j / 64.
#pragma once

#include <cstdint>

#include "isa.h"

namespace spex {

// out (shifts, 2**b, words): out[p][l] = offsets[p] ^ XOR over the set bits i of l of columns[i],
// with columns (b, words) and offsets (shifts, words): all points of `shifts` affine subspaces.
void affine_masks_cpu(const uint64_t* columns, const uint64_t* offsets, int b, int64_t shifts,
                      int64_t words, uint64_t* out, Isa isa, int threads);

// Rows [start, start + rows) of the endless table of uniform masks that (seed, stream) names.
// out (rows, ceil(n / 64)); bits past n are zero. Words 2i and 2i + 1 of row r are the four 32-bit
// outputs, low first, of Philox4x32-10 at counter (i, r low, r high, stream), key (seed low, high).
void uniform_masks_cpu(uint64_t seed, uint32_t stream, int64_t start, int64_t rows, int64_t n,
                       uint64_t* out, Isa isa, int threads);

// masks (rows, ceil(n / 64)) -> out (rows, n): a byte for each feature, 1 = present.
void unpack_masks_cpu(const uint64_t* masks, int64_t rows, int64_t n, uint8_t* out, Isa isa);

}  // namespace spex
