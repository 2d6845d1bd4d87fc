// Which instruction set a CPU kernel runs with: found at run time, or named by a test or a bench.
#pragma once

namespace spex {

enum class Isa : int {
  portable = 0,  // plain C++17
  avx2 = 1,      // AVX2, FMA, POPCNT
  avx512 = 2,    // AVX-512 F, BW, DQ, VL
  gfni = 3,      // avx512 with VPOPCNTDQ, VBMI and GFNI (Ice Lake, Zen 4 and later)
};

// The best of the above on this machine; asked once, remembered.
Isa best_isa();

// requested < 0 means best_isa(). Throws std::invalid_argument where the machine lacks it.
Isa resolve_isa(int requested);

}  // namespace spex
