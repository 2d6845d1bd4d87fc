#include "packed_attention.h"

#include <algorithm>
#include <vector>

#include "bits.h"
#include "packed_attention_kernel.h"
#include "threads.h"

namespace spex {
namespace {

const AttentionKernels& kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return attention_avx512;
  if (isa >= Isa::avx2) return attention_avx2;
#endif
  static constexpr AttentionKernels portable = Attention<16>::kernels();
  return portable;
}

// Floats that a head of this length needs with any instruction set: rows of 48 at most, and what is
// rounded up to 16.
int64_t scratch_size(int64_t length, int64_t dim) {
  const int64_t rows = round_up(dim, 16);
  return 2 * round_up(length, 16) * rows + 48 * (2 * rows + kAttentionKeys);
}

template <typename T>
AttentionHead<T> head_of(const PackedAttention<T>& problem, int64_t t, int64_t h, float* scratch) {
  const int64_t first = problem.starts[t];
  const int64_t shared = h / (problem.heads / problem.key_heads);
  const auto at = [first](const auto& rows, int64_t head) {
    return rows.data + first * rows.row + head * rows.head;
  };
  const bool last = shared + 1 == problem.key_heads;
  return {at(problem.query, h),
          at(problem.key, shared),
          at(problem.value, shared),
          at(problem.out, h),
          problem.query.row,
          problem.key.row,
          problem.value.row,
          problem.out.row,
          last ? 0 : problem.key.head,
          last ? 0 : problem.value.head,
          problem.starts[t + 1] - first,
          problem.dim,
          problem.scale,
          problem.causal,
          scratch};
}

// The heads of all sequences, shared out in blocks, each with scratch memory of its own.
template <typename T>
void attend_all(const PackedAttention<T>& problem, void (*attend)(const AttentionHead<T>&),
                int threads) {
  int64_t longest = 0, pairs = 0;
  for (int64_t t = 0; t < problem.sequences; ++t) {
    const int64_t length = problem.starts[t + 1] - problem.starts[t];
    longest = std::max(longest, length);
    pairs += length * length;
  }
  const int64_t items = problem.sequences * problem.heads;
  const int workers = threads_worth(pairs * problem.heads * problem.dim / 20, threads);
  const int64_t step = std::max<int64_t>(1, workers == 1 ? items : items / (8 * workers));
  parallel_for(ceil_div(items, step), workers, [&](int64_t block) {
    std::vector<float> memory(scratch_size(longest, problem.dim) + 16);
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    float* scratch = memory.data() + (64 - address % 64) % 64 / sizeof(float);
    for (int64_t i = block * step; i < std::min(items, (block + 1) * step); ++i)
      attend(head_of(problem, i / problem.heads, i % problem.heads, scratch));
  });
}

}  // namespace

void packed_attention_cpu(const PackedAttention<float>& problem, Isa isa, int threads) {
  attend_all(problem, kernels(isa).f32, threads);
}

void packed_attention_cpu(const PackedAttention<BFloat16>& problem, Isa isa, int threads) {
  attend_all(problem, kernels(isa).bf16, threads);
}

}  // namespace spex
