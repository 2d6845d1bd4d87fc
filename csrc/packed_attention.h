// Attention within each sequence of a pack, on the rows of all its tokens.
#pragma once

#include <cstdint>

#include "bfloat16.h"
#include "isa.h"

namespace spex {

// A matrix for each head, one row a token: the strides in values; values of a row are neighbours.
template <typename T>
struct HeadRows {
  T* data;
  int64_t row, head;
};

// Sequence t has the tokens [starts[t], starts[t + 1]); starts (sequences + 1) ascends from 0.
// Query and out have `heads` heads, key and value `key_heads`, which divides heads: head h reads
// key h / (heads / key_heads). All rows have dim >= 1 values. scale > 0.
template <typename T>
struct PackedAttention {
  HeadRows<const T> query, key, value;
  HeadRows<T> out;
  const int64_t* starts;
  int64_t sequences, heads, key_heads, dim;
  float scale;
  bool causal;
};

// out[i] = sum_j p[j] value[j] over the tokens j of the sequence of i (causal: those up to i), with
// p[j] proportional to exp(scale <query[i], key[j]>) and of sum 1. Arithmetic in float32.
void packed_attention_cpu(const PackedAttention<float>& problem, Isa isa, int threads);
void packed_attention_cpu(const PackedAttention<BFloat16>& problem, Isa isa, int threads);

}  // namespace spex
