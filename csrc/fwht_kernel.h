// The Walsh-Hadamard transform on vectors of one width: compiled by fwht.cpp and the fwht_avx*.cpp,
// once for each instruction set. All but FwhtKernel has internal linkage, so that no code made for
// a wide instruction set is shared with the rest of the library.
//
// A row of 2**b values takes the stages h = 1, 2, 4, ... in this order; stage h replaces x[j] and
// x[j + h] by their sum and difference wherever bit h of j is 0. Order and rounding are the same
// for every vector width and every split of the work, so all variants give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "unroll.h"

namespace spex {

inline constexpr int kFwhtMaxLog = 24;
inline constexpr int kFwhtLogRadix = 3;

// One instruction set's functions, indexed by b.
template <typename T>
struct FwhtKernel {
  // Transforms rows of 2**b values; in == out is allowed.
  void (*rows[kFwhtMaxLog + 1])(const T* in, T* out, int64_t rows);
  // The last three stages of one row, for columns [begin, end) of its view as (8, 2**(b - 3));
  // begin and end are multiples of 16. Null where b is so small that nobody would split a row.
  void (*last_stages[kFwhtMaxLog + 1])(T* row, int64_t begin, int64_t end);
};

// Both dtypes of one instruction set; the AVX ones are made by the files of their names.
struct FwhtKernels {
  FwhtKernel<float> f32;
  FwhtKernel<double> f64;
};
extern const FwhtKernels fwht_avx2, fwht_avx512;

namespace {

template <typename T, int kBytes>
struct Fwht {
  typedef T Vector __attribute__((vector_size(kBytes)));
  static constexpr int kLanes = kBytes / sizeof(T);
  static constexpr int kLogLanes = __builtin_ctz(kLanes);
  // A leaf is a block that is transformed in registers, in half of the register file.
  static constexpr int kLeaf = kLogLanes + (kBytes == 64 ? 4 : 3);

  static SPEX_INLINE Vector load(const T* p) {
    Vector v;
    __builtin_memcpy(&v, p, kBytes);
    return v;
  }

  static SPEX_INLINE void store(T* p, Vector v) { __builtin_memcpy(p, &v, kBytes); }

  // Stage h < kLanes, within a vector: a shuffle and a multiply-add by +-1, which is exact.
  template <int h, int... lane>
  static SPEX_INLINE Vector lane_stage(Vector v, std::integer_sequence<int, lane...>) {
    const Vector sign = {(lane & h ? T(-1) : T(1))...};
    return v * sign + __builtin_shufflevector(v, v, (lane ^ h)...);
  }

  // Stages 1, 2, ..., 2**(k - 1), within a vector.
  template <int k>
  static SPEX_INLINE Vector lane_stages(Vector v) {
    if constexpr (k == 0) {
      return v;
    } else {
      constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
      return lane_stage<(1 << k) / 2>(lane_stages<k - 1>(v), lanes);
    }
  }

  // All stages across R vectors. Some CPUs add and multiply in separate pipes, so a third of the
  // work goes to the multipliers, as a - 1 * b (8 to 20 % faster for b >= 9 on Zen 4); the empty
  // asm hides the 1 from the compiler.
  template <int R>
  static SPEX_INLINE void vector_stages(Vector (&v)[R]) {
    Vector one = Vector{} + T(1);
#if defined(__FMA__)
    asm("" : "+x"(one));
#endif
    SPEX_UNROLL
    for (int h = 1; h < R; h *= 2) {
      SPEX_UNROLL
      for (int pair = 0; pair < R / 2; ++pair) {
        const int i = pair + (pair & -h);  // pair with a 0 put in at bit h
        const Vector a = v[i], b = v[i + h];
        v[i] = a + b;
        v[i + h] = h == 2 ? a - b : a - one * b;
      }
    }
  }

  // A block of 2**b values, kLogLanes <= b <= kLeaf, in registers.
  template <int b>
  static SPEX_INLINE void leaf(const T* in, T* out) {
    constexpr int R = 1 << (b - kLogLanes);
    Vector v[R];
    SPEX_UNROLL
    for (int i = 0; i < R; ++i) v[i] = lane_stages<kLogLanes>(load(in + i * kLanes));
    vector_stages(v);
    SPEX_UNROLL
    for (int i = 0; i < R; ++i) store(out + i * kLanes, v[i]);
  }

  // The last r stages of a row of 2**b values, for some columns of its view as (2**r, 2**(b - r)).
  // Rows past 1 MiB, the usual second-level cache, ask for their lines 512 bytes early (5 %
  // faster).
  template <int b, int r>
  static void pass(T* row, int64_t begin, int64_t end) {
    constexpr int R = 1 << r;
    constexpr int64_t h = int64_t{1} << (b - r);
    constexpr bool far = sizeof(T) << b > size_t{1} << 20;
    for (int64_t j = begin; j < end; j += kLanes) {
      Vector v[R];
      SPEX_UNROLL
      for (int i = 0; i < R; ++i) {
        if constexpr (far) __builtin_prefetch(row + i * h + j + 512 / sizeof(T), 1);
        v[i] = load(row + i * h + j);
      }
      vector_stages(v);
      SPEX_UNROLL
      for (int i = 0; i < R; ++i) store(row + i * h + j, v[i]);
    }
  }

  // A row of 2**b values, b >= kLogLanes. Parts come first and each while it is hot in cache: the
  // first touch of memory is contiguous. Passes are radix 8, since 16 lines a large power of two
  // apart evict each other from an 8-way cache; at small strides one radix 16 may save a pass.
  template <int b>
  static void row(const T* in, T* out) {
    if constexpr (b <= kLeaf) {
      leaf<b>(in, out);
    } else {
      constexpr int r = b == kLeaf + 4 ? 4 : kFwhtLogRadix;
      constexpr int64_t h = int64_t{1} << (b - r);
      for (int i = 0; i < 1 << r; ++i) row<b - r>(in + i * h, out + i * h);
      pass<b, r>(out, 0, h);
    }
  }

  template <int b>
  static void rows(const T* in, T* out, int64_t rows) {
    const int64_t size = rows << b;
    if constexpr (b >= kLogLanes) {
      for (int64_t i = 0; i < size; i += int64_t{1} << b) row<b>(in + i, out + i);
    } else {  // several rows in a vector; the last vector may be partly filled
      const int64_t tail = size % kLanes, whole = size - tail;
      for (int64_t i = 0; i < whole; i += kLanes) store(out + i, lane_stages<b>(load(in + i)));
      T last[kLanes] = {};
      __builtin_memcpy(last, in + whole, tail * sizeof(T));
      store(last, lane_stages<b>(load(last)));
      __builtin_memcpy(out + whole, last, tail * sizeof(T));
    }
  }

  template <int b>
  static constexpr auto last_stages() -> void (*)(T*, int64_t, int64_t) {
    if constexpr (b > kLeaf + 4) return pass<b, kFwhtLogRadix>;
    return nullptr;
  }

  template <int... b>
  static constexpr FwhtKernel<T> kernel(std::integer_sequence<int, b...>) {
    return {{rows<b>...}, {last_stages<b>()...}};
  }
};

// The kernels with vectors of kBytes, for a constant that needs no code at start-up.
template <int kBytes>
constexpr FwhtKernels fwht_kernels() {
  constexpr auto logs = std::make_integer_sequence<int, kFwhtMaxLog + 1>{};
  return {Fwht<float, kBytes>::kernel(logs), Fwht<double, kBytes>::kernel(logs)};
}

}  // namespace
}  // namespace spex
