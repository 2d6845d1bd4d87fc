// sum_p a[p] b[p] c[p] in eight interleaved partial sums.
#pragma once

#include "isa.h"

namespace spex {

using Dot3 = double (*)(const double* a, const double* b, const double* c, int size);

// The version for an instruction set. All add in the same order; where a b and c are such that
// every product is exact (two of them +-1) all return the same bits.
Dot3 dot3_for(Isa isa);

}  // namespace spex
