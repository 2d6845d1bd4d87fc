#include <algorithm>
#include <cmath>

#include "check.h"
#include "gelu.h"

using namespace spex_test;

namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

void check_size(int64_t size) {
  std::mt19937_64 next(size);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> x(size);
  std::vector<spex::BFloat16> half(size);
  for (int64_t i = 0; i < size; ++i) {
    half[i].bits = uint16_t(bits_of(normal(next)) >> 16);
    const uint32_t bits = uint32_t{half[i].bits} << 16;
    std::memcpy(&x[i], &bits, sizeof bits);
  }
  for_each_way([&](spex::Isa isa, int threads) {
    auto out = garbage<float>(size);
    auto narrow = garbage<spex::BFloat16>(size);
    spex::gelu_cpu(x.data(), out.data(), size, isa, threads);
    spex::gelu_cpu(half.data(), narrow.data(), size, isa, threads);
    for (int64_t i = 0; i < size; ++i) {
      const double want = 0.5 * x[i] * std::erfc(-x[i] / std::sqrt(2.0));
      CHECK(std::abs(out[i] - want) <= 1.2e-7 * std::max(1.0f, std::abs(x[i])),
            "gelu i=%ld of %ld isa=%d threads=%d: %g, not %g", long(i), long(size), int(isa),
            threads, double(out[i]), want);
      const uint32_t bits = bits_of(out[i]);
      CHECK(narrow[i].bits == (bits + 0x7FFF + (bits >> 16 & 1)) >> 16,
            "gelu of bfloat16 i=%ld of %ld isa=%d threads=%d", long(i), long(size), int(isa),
            threads);
    }
  });
}

}  // namespace

void test_gelu() {
  for (int64_t size : {0, 1, 3, 4, 15, 16, 17, 1000, 600'001}) check_size(size);
}
