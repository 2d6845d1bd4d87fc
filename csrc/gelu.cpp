#include "gelu.h"

#include <algorithm>

#include "bits.h"
#include "gelu_kernel.h"
#include "threads.h"

namespace spex {
namespace {

constexpr int64_t kBlock = 1 << 14;

const GeluKernels& kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return gelu_avx512;
  if (isa >= Isa::avx2) return gelu_avx2;
#endif
  static constexpr GeluKernels portable = Gelu<16>::kernels();
  return portable;
}

template <typename T>
void gelu_all(const T* x, T* out, int64_t size, void (*gelu)(const T*, T*, int64_t), int threads) {
  parallel_for(ceil_div(size, kBlock), threads_worth(size / 2, threads), [&](int64_t block) {
    const int64_t start = block * kBlock;
    gelu(x + start, out + start, std::min(kBlock, size - start));
  });
}

}  // namespace

void gelu_cpu(const float* x, float* out, int64_t size, Isa isa, int threads) {
  gelu_all(x, out, size, kernels(isa).f32, threads);
}

void gelu_cpu(const BFloat16* x, BFloat16* out, int64_t size, Isa isa, int threads) {
  gelu_all(x, out, size, kernels(isa).bf16, threads);
}

}  // namespace spex
