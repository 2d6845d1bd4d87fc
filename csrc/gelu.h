// The exact GELU, x Phi(x), where Phi is the distribution function of the standard normal.
#pragma once

#include <cstdint>

#include "bfloat16.h"
#include "isa.h"

namespace spex {

// out[i] = x[i] Phi(x[i]), in float32 arithmetic. out may be x.
void gelu_cpu(const float* x, float* out, int64_t size, Isa isa, int threads);
void gelu_cpu(const BFloat16* x, BFloat16* out, int64_t size, Isa isa, int threads);

}  // namespace spex
