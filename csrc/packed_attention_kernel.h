// One head of one sequence on vectors of one width: compiled by packed_attention.cpp and the
// packed_attention_avx*.cpp, once for each instruction set, with internal linkage as in
// fwht_kernel.h.
//
// Queries stand in the lanes of vectors, kWidth of them at a time, so that the maximum and the sum
// of a softmax are plain vector operations. Keys and values are first copied to rows that lie side
// by side, as float32, and both products are one loop, `add_product`. Keys come in blocks that stay
// in cache; where there are several, what was summed so far is scaled to the new maximum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "float_vector.h"
#include "packed_attention.h"
#include "unroll.h"

namespace spex {

inline constexpr int64_t kAttentionKeys = 256;  // of a block: a multiple of every kRows

// The first row of each matrix of a head, the values from one row to the next, and scratch memory
// of attention_scratch(length, dim) floats, aligned to 64 bytes.
template <typename T>
struct AttentionHead {
  const T *query, *key, *value;
  T* out;
  int64_t query_row, key_row, value_row, out_row;
  int64_t next_key, next_value;  // from here to what the next call reads, or 0: asked for early
  int64_t length, dim;
  float scale;
  bool causal;
  float* scratch;
};

struct AttentionKernels {
  void (*f32)(const AttentionHead<float>& head);
  void (*bf16)(const AttentionHead<BFloat16>& head);
};
extern const AttentionKernels attention_avx2, attention_avx512;

namespace {

constexpr int64_t round_up(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

template <int kBytes>
struct Attention : FloatVector<kBytes> {
  using Base = FloatVector<kBytes>;
  using Base::kLanes, Base::load, Base::store, Base::widen, Base::narrow, Base::power_of_two;
  using typename Base::Bits;
  using typename Base::Vector;
  static constexpr int kRows = kBytes == 64 ? 8 : 4;  // of a tile in registers; 3/4 of them hold it
  static constexpr int kVectors = 3;
  static constexpr int kWidth = kVectors * kLanes;

  template <typename T>
  static SPEX_INLINE void prefetch(const T* row, int64_t columns) {
    for (int64_t j = 0; j < columns; j += 64 / sizeof(T)) __builtin_prefetch(row + j);
  }

  // (rows, columns) at any stride -> (rows, width), zero from `columns` on.
  template <typename T>
  static void copy_rows(const T* from, int64_t stride, int64_t next, int64_t rows, int64_t columns,
                        float* to, int64_t width) {
    for (int64_t i = 0; i < rows; ++i) {
      prefetch(from + i * stride + next, columns);
      for (int64_t j = 0; j < width; j += kLanes)
        narrow(to + i * width + j, widen(from + i * stride + j, columns - j), width - j);
    }
  }

  // Lanes with bit h of their number clear from both vectors to a, those with it set to b.
  template <int h, int... lane>
  static SPEX_INLINE void exchange(Vector& a, Vector& b, std::integer_sequence<int, lane...>) {
    const Vector low = __builtin_shufflevector(a, b, (lane & h ? lane - h + kLanes : lane)...);
    b = __builtin_shufflevector(a, b, (lane & h ? lane + kLanes : lane + h)...);
    a = low;
  }

  // v[i][j] becomes v[j][i].
  template <int h = kLanes / 2>
  static SPEX_INLINE void transpose(Vector (&v)[kLanes]) {
    if constexpr (h > 0) {
      SPEX_UNROLL
      for (int pair = 0; pair < kLanes / 2; ++pair) {
        const int i = pair + (pair & -h);  // pair with a 0 put in at bit h
        exchange<h>(v[i], v[i + h], std::make_integer_sequence<int, kLanes>{});
      }
      transpose<h / 2>(v);
    }
  }

  // ---- Arithmetic -------------------------------------------------------------------------------

  // sums[r][c] += sum over k of a[r * row + k * step] b[k * kWidth + c * kLanes]
  template <int C>
  static SPEX_INLINE void add_product(Vector (&sums)[kRows][C], const float* a, int64_t row,
                                      int64_t step, const float* b, int64_t depth) {
    for (int64_t k = 0; k < depth; ++k) {
      Vector right[C];
      SPEX_UNROLL
      for (int c = 0; c < C; ++c) right[c] = load(b + k * kWidth + c * kLanes);
      SPEX_UNROLL
      for (int r = 0; r < kRows; ++r) {
        SPEX_UNROLL
        for (int c = 0; c < C; ++c) sums[r][c] += a[r * row + k * step] * right[c];
      }
    }
  }

  // ---- A block of C * kLanes queries, or as many as there are -----------------------------------

  struct Scratch {
    float *keys, *values;            // (length up to kRows, dim), (length, dim up to kRows)
    float *queries, *scores, *sums;  // (dim up to kLanes, kWidth), (kAttentionKeys, kWidth),
                                     // (dim up to kRows, kWidth)
  };

  template <int C, typename T>
  static void load_queries(const AttentionHead<T>& head, int64_t first, float* queries) {
    SPEX_UNROLL
    for (int c = 0; c < C; ++c)
      for (int64_t d = 0; d < head.dim; d += kLanes) {
        const int64_t query = first + c * kLanes, left = head.length - query;
        Vector v[kLanes];
        SPEX_UNROLL
        for (int i = 0; i < kLanes; ++i)
          v[i] = i < left ? widen(head.query + (query + i) * head.query_row + d, head.dim - d)
                          : Vector{};
        transpose(v);
        SPEX_UNROLL
        for (int i = 0; i < kLanes; ++i) store(queries + (d + i) * kWidth + c * kLanes, v[i]);
      }
  }

  template <int C, typename T>
  static void store_sums(const AttentionHead<T>& head, int64_t first, const float* sums,
                         const Vector (&total)[C]) {
    SPEX_UNROLL
    for (int c = 0; c < C; ++c) {
      const Vector share = 1.0f / total[c];
      for (int64_t d = 0; d < head.dim; d += kLanes) {
        const int64_t query = first + c * kLanes, left = head.length - query;
        Vector v[kLanes];
        SPEX_UNROLL
        for (int i = 0; i < kLanes; ++i)
          v[i] = d + i < head.dim ? load(sums + (d + i) * kWidth + c * kLanes) * share : Vector{};
        transpose(v);
        SPEX_UNROLL
        for (int i = 0; i < kLanes; ++i)
          if (i < left) narrow(head.out + (query + i) * head.out_row + d, v[i], head.dim - d);
      }
    }
  }

  // Scores of queries from `first` on with `count` keys from `begin` on, and their maximum so far.
  template <int C, typename T>
  static void score(const AttentionHead<T>& head, const Scratch& scratch, int64_t first,
                    int64_t begin, int64_t count, Vector (&top)[C]) {
    constexpr uint32_t kMinusInfinity = 0xFF800000;
    Bits lane;
    SPEX_UNROLL
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for (int64_t k = 0; k < count; k += kRows) {
      Vector tile[kRows][C] = {};
      add_product(tile, scratch.keys + (begin + k) * head.dim, head.dim, 1, scratch.queries,
                  head.dim);
      SPEX_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int64_t key = begin + k + r;
        if (k + r >= count) break;
        SPEX_UNROLL
        for (int c = 0; c < C; ++c) {
          if (head.causal && key > first) {
            const Bits unseen = (Bits)(lane + uint32_t(first + c * kLanes) < uint32_t(key));
            tile[r][c] = (Vector)(((Bits)tile[r][c] & ~unseen) | (unseen & kMinusInfinity));
          }
          top[c] = tile[r][c] > top[c] ? tile[r][c] : top[c];
          store(scratch.scores + (k + r) * kWidth + c * kLanes, tile[r][c]);
        }
      }
    }
  }

  // Scores become weights, 2**(scale (score - top)), and are added to their totals.
  template <int C>
  static void weigh(float* scores, int64_t count, float scale, const Vector (&top)[C],
                    Vector (&total)[C]) {
    for (int64_t k = 0; k < count; ++k) {
      SPEX_UNROLL
      for (int c = 0; c < C; ++c) {
        float* at = scores + k * kWidth + c * kLanes;
        const Vector weight = power_of_two((load(at) - top[c]) * scale);
        total[c] += weight;
        store(at, weight);
      }
    }
  }

  // sums = kept sums + weights values, for `count` keys from `begin` on.
  template <int C>
  static void add_values(const Scratch& scratch, int64_t value_width, int64_t begin, int64_t count,
                         const Vector (&kept)[C]) {
    for (int64_t d = 0; d < value_width; d += kRows) {
      Vector tile[kRows][C] = {};
      float* sums = scratch.sums + d * kWidth;
      SPEX_UNROLL
      for (int i = 0; i < kRows * C; ++i)
        if (begin > 0)
          tile[i / C][i % C] = load(sums + i / C * kWidth + i % C * kLanes) * kept[i % C];
      add_product(tile, scratch.values + begin * value_width + d, 1, value_width, scratch.scores,
                  count);
      SPEX_UNROLL
      for (int i = 0; i < kRows * C; ++i)
        store(sums + i / C * kWidth + i % C * kLanes, tile[i / C][i % C]);
    }
  }

  template <int C, typename T>
  static void attend(const AttentionHead<T>& head, const Scratch& scratch, int64_t first) {
    const int64_t past = first + C * kLanes;
    const int64_t end = head.causal && past < head.length ? past : head.length;
    const float scale = head.scale * 1.44269504088896341f;  // powers are of two
    load_queries<C>(head, first, scratch.queries);
    for (int64_t i = first; i < past && i < head.length; ++i) {
      prefetch(head.out + i * head.out_row, head.dim);
      if (i + C * kLanes < head.length)
        prefetch(head.query + (i + C * kLanes) * head.query_row, head.dim);
    }
    Vector top[C], total[C] = {};
    SPEX_UNROLL
    for (int c = 0; c < C; ++c) top[c] = Vector{} - __builtin_inff();
    for (int64_t begin = 0; begin < end; begin += kAttentionKeys) {
      const int64_t count = end - begin < kAttentionKeys ? end - begin : kAttentionKeys;
      Vector kept[C];
      SPEX_UNROLL
      for (int c = 0; c < C; ++c) kept[c] = top[c];
      score(head, scratch, first, begin, count, top);
      SPEX_UNROLL
      for (int c = 0; c < C; ++c) {
        kept[c] = power_of_two((kept[c] - top[c]) * scale);
        total[c] *= kept[c];
      }
      weigh(scratch.scores, count, scale, top, total);
      add_values(scratch, round_up(head.dim, kRows), begin, count, kept);
    }
    store_sums<C>(head, first, scratch.sums, total);
  }

  template <typename T>
  static void run(const AttentionHead<T>& head) {
    const int64_t value_width = round_up(head.dim, kRows), length = round_up(head.length, kRows);
    float* free = head.scratch;
    const auto take = [&free](int64_t size) {
      float* part = free;
      free += round_up(size, 16);
      return part;
    };
    const Scratch scratch{take(length * head.dim), take(head.length * value_width),
                          take(round_up(head.dim, kLanes) * kWidth), take(kAttentionKeys * kWidth),
                          take(value_width * kWidth)};
    copy_rows(head.key, head.key_row, head.next_key, head.length, head.dim, scratch.keys, head.dim);
    for (int64_t i = head.length * head.dim; i < length * head.dim; ++i) scratch.keys[i] = 0;
    copy_rows(head.value, head.value_row, head.next_value, head.length, head.dim, scratch.values,
              value_width);
    for (int64_t first = 0; first < head.length; first += kWidth) {
      const int64_t left = head.length - first;
      if (left > 2 * kLanes) {
        attend<3>(head, scratch, first);
      } else if (left > kLanes) {
        attend<2>(head, scratch, first);
      } else {
        attend<1>(head, scratch, first);
      }
    }
  }

  static constexpr AttentionKernels kernels() { return {run<float>, run<BFloat16>}; }
};

}  // namespace
}  // namespace spex
