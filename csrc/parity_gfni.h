// Products of a block of samples by 8 x 8 bit matrices, for CPUs with GFNI: one instruction makes
// 512 parities of 8 features each. Called only where the CPU has Isa::gfni.
#pragma once

#include <cstdint>

namespace spex {

// Slices one word of a block into bytes: slab (8 bytes c, 8 groups g, 8 lanes) of 8 x 8 matrices,
// that of features 8 c to 8 c + 7 by samples 64 lane + 8 g to 64 lane + 8 g + 7. tile (64, 8): row
// i and lane are sample 64 lane + i.
void gfni_slice(const uint64_t* tile, uint64_t* slab);

// bits[terms[i]] ^= the parities of `columns` <= 64 sliced bytes (an even number) with support i.
// supports (ceil(count / 8), 64): element c of a group is byte c of its 8 supports. bits (terms,
// 8).
void gfni_product(const uint64_t* slab, int columns, const uint64_t* supports,
                  const uint32_t* terms, int64_t count, uint64_t* bits);

}  // namespace spex
