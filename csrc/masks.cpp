#include "masks.h"

#include "bits.h"
#include "threads.h"

namespace spex {
namespace {

// Philox4x32-10 (Salmon et al. 2011): four 32-bit words from a counter and a key.
void philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t y0 = static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0;
    const uint32_t y2 = static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1;
    c[0] = y0;
    c[1] = static_cast<uint32_t>(b);
    c[2] = y2;
    c[3] = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
}

}  // namespace

void affine_masks_cpu(const uint64_t* columns, const uint64_t* offsets, int b, int64_t shifts,
                      int64_t words, uint64_t* out, Isa, int threads) {
  parallel_for(shifts, threads, [=](int64_t p) {
    uint64_t* block = out + (p << b) * words;
    for (int64_t w = 0; w < words; ++w) block[w] = offsets[p * words + w];
    for (int i = 0; i < b; ++i) {
      const int64_t half = (int64_t{1} << i) * words;
      for (int64_t x = 0; x < half; ++x) block[half + x] = block[x] ^ columns[i * words + x % words];
    }
  });
}

void uniform_masks_cpu(uint64_t seed, uint32_t stream, int64_t start, int64_t rows, int64_t n,
                       uint64_t* out, Isa, int threads) {
  const int64_t words = ceil_div(n, 64);
  const uint64_t last = n % 64 ? (uint64_t{1} << (n % 64)) - 1 : ~uint64_t{0};
  parallel_for(rows, threads, [=](int64_t row) {
    const uint64_t r = static_cast<uint64_t>(start + row);
    uint64_t* mask = out + row * words;
    for (int64_t i = 0; 2 * i < words; ++i) {
      uint32_t c[4] = {static_cast<uint32_t>(i), static_cast<uint32_t>(r),
                       static_cast<uint32_t>(r >> 32), stream};
      philox(c, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      mask[2 * i] = c[0] | uint64_t{c[1]} << 32;
      if (2 * i + 1 < words) mask[2 * i + 1] = c[2] | uint64_t{c[3]} << 32;
    }
    mask[words - 1] &= last;
  });
}

}  // namespace spex
