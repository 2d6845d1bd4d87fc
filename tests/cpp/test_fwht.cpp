#include "bits.h"
#include "check.h"
#include "fwht.h"

using namespace spex_test;

namespace {

// Sparse rows, so that the definition itself is affordable at every size: `kept` values a row.
template <typename T>
struct Rows {
  std::vector<T> in, expected;

  Rows(int64_t rows, int log_n, int64_t kept) {
    const int64_t n = int64_t{1} << log_n;
    in.assign(rows * n, 0);
    expected.assign(rows * n, 0);
    const auto values = random_integers<T>(rows * kept, 1);
    const auto places = random_words(rows * kept, 2);
    for (int64_t i = 0; i < rows * kept; ++i) {
      const int64_t row = i / kept, j = places[i] % n;
      in[row * n + j] += values[i];
      for (int64_t k = 0; k < n; ++k)
        expected[row * n + k] += spex::parity(j & k) ? -values[i] : values[i];
    }
  }
};

template <typename T>
void check_shape(int64_t rows, int log_n) {
  const Rows<T> example(rows, log_n, 5);
  const std::vector<T>& in = example.in;
  for_each_way([&](spex::Isa isa, int threads) {
    auto apart = garbage<T>(in.size());
    spex::fwht_cpu(in.data(), apart.data(), rows, log_n, isa, threads);
    auto in_place = in;
    spex::fwht_cpu(in_place.data(), in_place.data(), rows, log_n, isa, threads);
    const char* where = sizeof(T) == 4 ? "float32" : "float64";
    CHECK(apart == example.expected, "fwht %s rows=%ld b=%d isa=%d threads=%d", where, long(rows),
          log_n, int(isa), threads);
    CHECK(in_place == example.expected, "fwht in place %s rows=%ld b=%d isa=%d threads=%d", where,
          long(rows), log_n, int(isa), threads);
  });
}

// Real values: every number of threads gives the same bits, and the transform is its own inverse.
template <typename T>
void check_real(int64_t rows, int log_n) {
  const int64_t n = int64_t{1} << log_n;
  std::mt19937_64 next(3);
  std::normal_distribution<double> normal;
  std::vector<T> in(rows * n);
  for (T& x : in) x = static_cast<T>(normal(next));
  for (int isa = 0; isa <= int(spex::best_isa()); ++isa) {
    auto once = garbage<T>(in.size()), twice = garbage<T>(in.size());
    spex::fwht_cpu(in.data(), once.data(), rows, log_n, spex::Isa(isa), 1);
    for (int threads : {2, 3, 8}) {
      auto again = garbage<T>(in.size());
      spex::fwht_cpu(in.data(), again.data(), rows, log_n, spex::Isa(isa), threads);
      CHECK(again == once, "fwht b=%d isa=%d: %d threads change bits", log_n, isa, threads);
    }
    spex::fwht_cpu(once.data(), twice.data(), rows, log_n, spex::Isa(isa), 1);
    const double eps = sizeof(T) == 4 ? 1.2e-7 : 2.3e-16;
    double error = 0, size = 0;
    for (size_t i = 0; i < in.size(); ++i) {
      error += (twice[i] / n - in[i]) * (twice[i] / n - in[i]);
      size += in[i] * in[i];
    }
    const double bound = eps * (2 * log_n + 1);  // relative l2
    CHECK(error <= bound * bound * size, "fwht b=%d isa=%d is not its inverse", log_n, isa);
  }
}

template <typename T>
void check_all() {
  for (int log_n : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
    for (int64_t rows : {0, 1, 2, 3, 5, 17}) check_shape<T>(rows, log_n);
  for (int log_n : {12, 13, 14, 15, 17}) check_shape<T>(log_n < 15 ? 3 : 1, log_n);
  for (int log_n : {1, 4, 9, 13, 16}) check_real<T>(3, log_n);
}

}  // namespace

void test_fwht() {
  check_all<float>();
  check_all<double>();
}
