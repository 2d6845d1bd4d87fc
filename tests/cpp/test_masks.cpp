#include "check.h"
#include "masks.h"

using namespace spex_test;

namespace {

void check_affine(int b, int64_t shifts, int64_t words) {
  const auto columns = random_words(b * words, 1), offsets = random_words(shifts * words, 2);
  const int64_t size = int64_t{1} << b;
  for_each_way([&](spex::Isa isa, int threads) {
    auto out = garbage<uint64_t>(shifts * size * words);
    spex::affine_masks_cpu(columns.data(), offsets.data(), b, shifts, words, out.data(), isa,
                           threads);
    for (int64_t i = 0; i < shifts * size * words; ++i) {
      const int64_t p = i / words / size, l = i / words % size, w = i % words;
      uint64_t expected = offsets[p * words + w];
      for (int j = 0; j < b; ++j)
        if (l >> j & 1) expected ^= columns[j * words + w];
      CHECK(out[i] == expected, "affine_masks b=%d shifts=%ld words=%ld isa=%d threads=%d", b,
            long(shifts), long(words), int(isa), threads);
    }
  });
}

// Any range of rows is that range of the table, and bits past n are zero.
void check_uniform(int64_t rows, int64_t n) {
  const int64_t words = (n + 63) / 64;
  const uint64_t seed = 0xFEDCBA9876543210;
  auto table = garbage<uint64_t>(rows * words);
  spex::uniform_masks_cpu(seed, 7, 0, rows, n, table.data(), spex::Isa::portable, 1);
  int64_t ones = 0;
  for (int64_t i = 0; i < rows * words; ++i) ones += __builtin_popcountll(table[i]);
  const double mean = 0.5 * rows * n;  // standard deviation: half the root of rows * n
  CHECK((ones - mean) * (ones - mean) <= 25 * 0.25 * rows * n, "uniform_masks n=%ld is biased",
        long(n));
  for_each_way([&](spex::Isa isa, int threads) {
    for (int64_t start = 0; start <= rows; start += 1 + rows / 3) {
      auto out = garbage<uint64_t>((rows - start) * words);
      spex::uniform_masks_cpu(seed, 7, start, rows - start, n, out.data(), isa, threads);
      CHECK(std::equal(out.begin(), out.end(), table.begin() + start * words),
            "uniform_masks rows=%ld n=%ld start=%ld isa=%d threads=%d", long(rows), long(n),
            long(start), int(isa), threads);
      for (int64_t row = 0; n % 64 && row < rows - start; ++row)
        CHECK(out[row * words + words - 1] >> (n % 64) == 0, "uniform_masks n=%ld: spare bits",
              long(n));
    }
  });
}

// Known answers of the Random123 distribution (kat_vectors) that this counter layout can reach.
void check_philox() {
  for_each_way([](spex::Isa isa, int threads) {
    auto out = garbage<uint64_t>(2);
    spex::uniform_masks_cpu(0, 0, 0, 1, 128, out.data(), isa, threads);
    CHECK(out[0] == 0xe169c58d6627e8d5 && out[1] == 0x9b00dbd8bc57ac4c,
          "philox4x32-10 of zeros, isa=%d", int(isa));
  });
}

void check_unpack(int64_t rows, int64_t n) {
  const int64_t words = (n + 63) / 64;
  const auto masks = random_words(rows * words, 3);
  for_each_way([&](spex::Isa isa, int) {
    auto out = garbage<uint8_t>(rows * n);
    spex::unpack_masks_cpu(masks.data(), rows, n, out.data(), isa);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t j = 0; j < n; ++j)
        CHECK(out[row * n + j] == (masks[row * words + j / 64] >> j % 64 & 1),
              "unpack_masks rows=%ld n=%ld isa=%d", long(rows), long(n), int(isa));
  });
}

}  // namespace

void test_masks() {
  for (int b : {0, 1, 2, 3, 5, 8})
    for (int64_t shifts : {0, 1, 3, 9})
      for (int64_t words : {1, 2, 3, 4, 5, 8, 9, 17}) check_affine(b, shifts, words);
  check_affine(13, 2, 3);
  check_philox();
  for (int64_t rows : {0, 1, 2, 7, 64, 100})
    for (int64_t n : {1, 2, 63, 64, 65, 100, 128, 129, 192, 1000}) {
      check_uniform(rows, n);
      check_unpack(rows, n);
    }
}
