#include <cstring>

#include "bits.h"
#include "masks.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace spex {
namespace {

// Bit j of a byte as byte j, 0 or 1.
inline uint64_t spread(uint64_t byte) {
  const uint64_t bits = byte * 0x0101010101010101 & 0x8040201008040201;
  return (bits + 0x7F7F7F7F7F7F7F7F) >> 7 & 0x0101010101010101;
}

void unpack_rows(const uint64_t* masks, int64_t rows, int64_t n, uint8_t* out) {
  const int64_t words = ceil_div(n, 64), whole = n - n % 8;
  for (int64_t row = 0; row < rows; ++row, masks += words, out += n) {
    for (int64_t j = 0; j < whole; j += 8) {
      const uint64_t eight = spread(masks[j / 64] >> j % 64 & 0xFF);
      std::memcpy(out + j, &eight, 8);
    }
    for (int64_t j = whole; j < n; ++j) out[j] = masks[j / 64] >> j % 64 & 1;
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw"))) void unpack_rows_avx512(const uint64_t* masks,
                                                                    int64_t rows, int64_t n,
                                                                    uint8_t* out) {
  const int64_t words = ceil_div(n, 64);
  const __mmask64 last = n % 64 ? (uint64_t{1} << n % 64) - 1 : ~uint64_t{0};
  for (int64_t row = 0; row < rows; ++row, masks += words, out += n)
    for (int64_t word = 0; word < words; ++word)
      _mm512_mask_storeu_epi8(out + 64 * word, word + 1 < words ? ~__mmask64{0} : last,
                              _mm512_maskz_set1_epi8(masks[word], 1));
}
#endif

}  // namespace

void unpack_masks_cpu(const uint64_t* masks, int64_t rows, int64_t n, uint8_t* out, Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return unpack_rows_avx512(masks, rows, n, out);
#endif
  static_cast<void>(isa);
  unpack_rows(masks, rows, n, out);
}

}  // namespace spex
