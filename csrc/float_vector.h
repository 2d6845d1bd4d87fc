// A vector of floats of one width, its way in and out of memory in either dtype, and arithmetic
// that kernels share. Internal linkage, as in fwht_kernel.h: each file that includes it compiles
// it for the instruction set of that file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bfloat16.h"
#include "unroll.h"

namespace spex {
namespace {

template <typename T, int kBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};

template <int kBytes>
struct FloatVector {
  using Vector = typename VectorOf<float, kBytes>::type;
  using Bits = typename VectorOf<uint32_t, kBytes>::type;
  using Half = typename VectorOf<uint16_t, kBytes / 2>::type;
  static constexpr int kLanes = kBytes / sizeof(float);

  static SPEX_INLINE Vector load(const float* p) {
    Vector v;
    __builtin_memcpy(&v, p, kBytes);
    return v;
  }

  static SPEX_INLINE void store(float* p, Vector v) { __builtin_memcpy(p, &v, kBytes); }

  static SPEX_INLINE Vector widen(const float* p) { return load(p); }

  static SPEX_INLINE Vector widen(const BFloat16* p) {
    Half half;
    __builtin_memcpy(&half, p, sizeof half);
    return (Vector)(__builtin_convertvector(half, Bits) << 16);
  }

  static SPEX_INLINE void narrow(float* p, Vector v) { store(p, v); }

  // Rounds to nearest, ties to even.
  static SPEX_INLINE void narrow(BFloat16* p, Vector v) {
    const Bits bits = (Bits)v;
    const Bits rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const Bits nan = (Bits)(v != v);
    const Half half = __builtin_convertvector((rounded & ~nan) | (nan & 0x7FC0), Half);
    __builtin_memcpy(p, &half, sizeof half);
  }

  // The first `count` lanes from or to memory that has no more; the others are zero.
  template <typename T>
  static SPEX_INLINE Vector widen(const T* p, int64_t count) {
    if (count >= kLanes) return widen(p);
    T part[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) part[i] = p[i];
    return widen(part);
  }

  template <typename T>
  static SPEX_INLINE void narrow(T* p, Vector v, int64_t count) {
    if (count >= kLanes) return narrow(p, v);
    T part[kLanes];
    narrow(part, v);
    for (int64_t i = 0; i < count; ++i) p[i] = part[i];
  }

  // 2**x for x <= 0, within 1.7e-7 of it (relative); 0 below 2**-126.
  static SPEX_INLINE Vector power_of_two(Vector x) {
    constexpr float kInteger = 12582912;  // 3 * 2**22: adding it rounds to integers
    const Vector shifted = x + kInteger;
    const Vector f = x - (shifted - kInteger);  // in [-1/2, 1/2]
    Vector p = f * 0.001326472731307149f + 0.009671512991189957f;
    p = p * f + 0.05550733581185341f;
    p = p * f + 0.24022242426872253f;
    p = p * f + 0.6931470036506653f;
    p = p * f + 1.0f;
    const Bits scaled = (Bits)p + ((Bits)shifted << 23);
    return (Vector)(scaled & ~(Bits)(x < -126.0f));
  }
};

}  // namespace
}  // namespace spex
