#include "bch.h"

#include "chase.h"
#include "threads.h"

namespace spex {

void bch_decode_cpu(const BchCode& code, const double* readings, int64_t rows, int chase,
                    int32_t* features, int32_t* counts, int threads) {
  constexpr int64_t kBlock = 64;
  const int shifts = 1 + code.parities;
  threads = threads_worth(rows * (kDecodeNanoseconds << chase), threads);
  parallel_for(ceil_div(rows, kBlock), threads, [=, &code](int64_t block) {
    for (int64_t row = block * kBlock; row < std::min(rows, (block + 1) * kBlock); ++row) {
      const double* r = readings + row * shifts;
      int32_t* out = features + row * code.t;
      std::fill_n(out, code.t, -1);
      counts[row] = -1;
      double best = -1;
      chase_decode(code, r, chase, [&](const int32_t* found, int count) {
        uint64_t bits[kMaxWords];
        delay_bits(code, found, count, bits);
        const double score = std::abs(signed_sum(bits, r, shifts));
        if (score <= best) return;
        best = score;
        counts[row] = count;
        std::fill_n(std::copy_n(found, count, out), code.t - count, -1);
      });
    }
  });
}

}  // namespace spex
