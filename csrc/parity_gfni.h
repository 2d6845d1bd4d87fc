// The bit-matrix product of a block by 8 x 8 bit matrices, for CPUs with GFNI: one instruction makes
// 512 parities of 8 features. Only called where the CPU has Isa::gfni.
#pragma once

#include <cstdint>

namespace spex {

// A slab is 8 words of a block, sliced into bytes: (64 byte columns, 8 groups, 8 lanes). The qword of
// byte column c, group g and lane l is the 8 x 8 matrix of features 8c to 8c + 7 by samples
// 64 l + 8 g to 64 l + 8 g + 7.
constexpr int64_t kSlabWords = 64 * 8 * 8;

// Slices word j of a block: 8 of the byte columns of a slab. tile (64, 8): row i, lane l is sample 64 l + i.
void gfni_slice(const uint64_t* tile, uint64_t* slab);

// bits[terms[i]] ^= the parities of a slab with term i. supports (ceil(count / 8), 64): qword c of a
// group holds byte column c of its 8 terms. columns <= 64 are in use. bits (terms, 8), as in
// parity_block.h.
void gfni_product(const uint64_t* slab, int columns, const uint64_t* supports,
                  const uint32_t* terms, int64_t count, uint64_t* bits);

}  // namespace spex
