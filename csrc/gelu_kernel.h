// GELU on vectors of one width: compiled by gelu.cpp and the gelu_avx*.cpp, once for each
// instruction set, with internal linkage as in fwht_kernel.h.
//
// x Phi(x) = max(x, 0) - h(|x|) with h(t) = t Phi(-t), which has no difference of near numbers
// where x is negative: the relative error stays small in the tail.
#pragma once

#include <cstdint>

#include "float_vector.h"
#include "unroll.h"

namespace spex {

struct GeluKernels {
  void (*f32)(const float* x, float* out, int64_t size);
  void (*bf16)(const BFloat16* x, BFloat16* out, int64_t size);
};
extern const GeluKernels gelu_avx2, gelu_avx512;

namespace {

template <int kBytes>
struct Gelu : FloatVector<kBytes> {
  using Base = FloatVector<kBytes>;
  using Base::kLanes, Base::widen, Base::narrow, Base::power_of_two;
  using typename Base::Bits;
  using typename Base::Vector;
  using Signed = typename VectorOf<int32_t, kBytes>::type;

  // min(|x|, most), compared as integers, which is faster; for a NaN, most.
  static SPEX_INLINE Vector magnitude(Vector x, float most) {
    const Signed bits = (Signed)((Bits)x & 0x7FFFFFFF), bound = (Signed)(Vector{} + most);
    return (Vector)(bits > bound ? bound : bits);
  }

  // h(|x|), 0 from |x| = 13.3 on. With w = 1 / (1 + t / 4.75), Phi(-t) = exp(-t^2 / 2) w p(w): p of
  // degree 8, least in the largest relative error for t in [0, 13], which is 1.3e-8.
  static SPEX_INLINE Vector shortfall(Vector x) {
    const Vector t = magnitude(x, 14.0f), w = 4.75f / (t + 4.75f);
    Vector p = w * -0.07043144851922989f + 0.27563753724098206f;
    p = p * w - 0.31618058681488037f;
    p = p * w + 0.3355422914028168f;
    p = p * w - 0.08575309067964554f;
    p = p * w + 0.1220252737402916f;
    p = p * w + 0.07003774493932724f;
    p = p * w + 0.0851963683962822f;
    p = p * w + 0.08392591774463654f;
    return t * w * (p * power_of_two(t * t * -0.72134752044448170f));
  }

  static SPEX_INLINE Vector gelu(Vector x) {
    return (x < 0.0f ? Vector{} : x) - shortfall(x);  // a NaN stays
  }

  template <typename T>
  static void run(const T* x, T* out, int64_t size) {
    const int64_t whole = size / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) narrow(out + i, gelu(widen(x + i)));
    if (whole < size) narrow(out + whole, gelu(widen(x + whole, size - whole)), size - whole);
  }

  static constexpr GeluKernels kernels() { return {run<float>, run<BFloat16>}; }
};

}  // namespace
}  // namespace spex
