// For the kernels that keep arrays of vectors in registers: always inlined, loops unrolled in full.
#pragma once

#define SPEX_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define SPEX_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SPEX_UNROLL _Pragma("GCC unroll 16")
#endif
