// Bit helpers shared by host and device code: the arithmetic that CPU tests exercise for both.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SPEX_HOST_DEVICE __host__ __device__
#else
#define SPEX_HOST_DEVICE
#endif

namespace spex {

SPEX_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

SPEX_HOST_DEVICE inline int popcount(uint64_t word) {
#if defined(__CUDA_ARCH__)
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

// Place of the lowest bit that is set; word is not 0.
SPEX_HOST_DEVICE inline int lowest_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(word)) - 1;
#else
  return __builtin_ctz(word);
#endif
}

SPEX_HOST_DEVICE inline int lowest_bit(uint64_t word) {
#if defined(__CUDA_ARCH__)
  return __ffsll(static_cast<long long>(word)) - 1;
#else
  return __builtin_ctzll(word);
#endif
}

SPEX_HOST_DEVICE inline int parity(uint64_t word) { return popcount(word) & 1; }

}  // namespace spex
