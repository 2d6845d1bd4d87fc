// The kernels of *.cu on the host (emulated.h), beside those of the CPU: exact buffers, under the
// sanitizers, with threads in both orders.
#include <algorithm>
#include <set>

#include "chase.h"
#include "check.h"
#include "code.h"
#include "emulated.h"
#include "fwht.h"
#include "parity.h"
#include "peel.h"

using namespace spex_test;

namespace {

constexpr spex::Place kHere{0, 0};

template <typename T>
void check_fwht(int64_t rows, int log_n) {
  const auto in = random_integers<T>(rows << log_n, 5);
  auto expected = garbage<T>(in.size()), out = garbage<T>(in.size());
  spex::fwht_cpu(in.data(), expected.data(), rows, log_n, spex::Isa{}, 1);
  spex::fwht_cuda(in.data(), out.data(), rows, log_n, kHere);
  CHECK(out == expected, "fwht_cuda rows=%ld b=%d", long(rows), log_n);
}

std::vector<double> random_readings(int64_t size, uint64_t seed) {
  std::mt19937_64 next(seed);
  std::normal_distribution<double> normal;
  std::vector<double> out(size);
  for (double& x : out) x = normal(next);
  return out;
}

void check_bch(const TestCode& code, int t, int64_t rows, int flips, int slices) {
  const auto readings = random_readings(rows * code.delays(), 2);
  auto features = garbage<int32_t>(rows * t), counts = garbage<int32_t>(rows);
  auto expected = features, sizes = counts;
  spex::bch_decode_cpu(code.view(), readings.data(), rows, flips, expected.data(), sizes.data(), 1);
  auto scores = garbage<double>(rows * slices);
  auto slots = garbage<int32_t>(rows * slices), found = garbage<int32_t>(rows * slices * t);
  spex::bch_decode_cuda(code.view(), readings.data(), rows, flips, slices,
                        {scores.data(), slots.data(), found.data()}, features.data(), counts.data(),
                        kHere);
  CHECK(counts == sizes && features == expected, "bch_decode_cuda flips=%d slices=%d", flips,
        slices);
  CHECK(rows == 0 || flips == 0 || *std::max_element(sizes.begin(), sizes.end()) > 0, "no sets");
}

// Terms with their coefficients, in the order of peel_cpu.
using Spectrum = std::vector<std::pair<std::vector<int32_t>, double>>;

Spectrum spectrum(const std::vector<int32_t>& features, const std::vector<double>& coefs,
                  int64_t count, int t) {
  Spectrum out;
  for (int64_t s = 0; s < count; ++s) {
    const int32_t* row = features.data() + s * t;
    out.push_back({{row, std::find(row, row + t, -1)}, coefs[s]});
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.first.size(), a.first) < std::make_pair(b.first.size(), b.first);
  });
  return out;
}

void check_peel(const TestCode& code, int t, int64_t n, int groups, int b, int terms, int chase,
                double noise) {
  std::mt19937_64 next(3);
  std::vector<int32_t> hash(groups * n);
  for (int32_t& row : hash) row = static_cast<int32_t>(next() % (uint64_t{1} << b));
  const int shifts = code.delays();
  auto bins = random_readings(int64_t{groups} * shifts << b, 4);
  for (double& u : bins) u *= noise;
  for (int s = 0; s < terms; ++s) {
    std::set<int32_t> set;
    for (int i = 0; i < s % (t + 1); ++i) set.insert(static_cast<int32_t>(next() % n));
    const std::vector<int32_t> k(set.begin(), set.end());
    uint64_t bits[spex::kMaxWords];
    spex::delay_bits(code.view(), k.data(), static_cast<int>(k.size()), bits);
    const double coef = 1 + double(s) / terms;
    for (int g = 0; g < groups; ++g) {
      int32_t bin = 0;
      for (const int32_t i : k) bin ^= hash[g * n + i];
      for (int p = 0; p < shifts; ++p)
        bins[((int64_t{g} * shifts + p) << b) + bin] += spex::bit_at(bits, p) ? -coef : coef;
    }
  }
  const spex::PeelProblem problem{code.view(), groups,      shifts, b,
                                  hash.data(), bins.data(), t,      1e-12};
  const int64_t most = spex::capacity(problem);
  auto features = garbage<int32_t>(most * t);
  auto coefs = garbage<double>(most);
  const int64_t count =
      spex::peel_cpu(problem, chase, features.data(), coefs.data(), spex::Isa{}, 1);
  const Spectrum expected = spectrum(features, coefs, count, t);
  CHECK(count > 0 || terms == 0, "the CPU found no term");

  auto memory = garbage<double>(spex::peel_cuda_bytes(problem) / 8);
  auto there = garbage<int32_t>(most * t);
  auto values = garbage<double>(most);
  int64_t found = -1;
  spex::peel_cuda(problem, chase, memory.data(), there.data(), values.data(), &found, kHere);
  CHECK(found == count, "peel_cuda found %ld of %ld terms, chase %d", long(found), long(count),
        chase);
  const Spectrum got = spectrum(there, values, found, t);
  for (int64_t s = 0; s < count; ++s) {
    CHECK(got[s].first == expected[s].first, "peel_cuda: term %ld is another", long(s));
    CHECK(std::abs(got[s].second - expected[s].second) < 1e-9, "peel_cuda: term %ld", long(s));
  }
}

#if defined(__SANITIZE_THREAD__)  // which knows nothing of fibers
constexpr bool kFibers = false;
#else
constexpr bool kFibers = true;
#endif

// Every term at every mask, one bit at a time.
void check_parity(int64_t samples, int64_t terms, int64_t words) {
  const int64_t groups = (samples + 63) / 64;
  const auto masks = random_words(samples * words, 1), support = random_words(terms * words, 2);
  const auto coefs = random_integers<double>(terms, 3),
             values = random_integers<double>(samples, 4);
  auto columns = garbage<uint64_t>(64 * words * groups), bits = garbage<uint64_t>(terms * groups);
  spex::parity_bits_cuda(masks.data(), support.data(), samples, terms, words, columns.data(),
                         bits.data(), kHere);
  std::vector<double> predicted(samples, 0.0), added(terms, 0.0);
  for (int64_t s = 0; s < terms; ++s)
    for (int64_t i = 0; i < 64 * groups; ++i) {
      const int sign = i < samples ? naive_sign(&masks[i * words], &support[s * words], words) : 1;
      CHECK((bits[s * groups + i / 64] >> (i % 64) & 1) == (sign < 0), "parity_bits_cuda");
      if (i < samples) predicted[i] += sign * coefs[s];
      if (i < samples) added[s] += sign * values[i];
    }
  auto sums = garbage<double>(samples), out = garbage<double>(terms);
  for (const int each : {1, 8, 32}) {
    spex::sum_over_terms_cuda(bits.data(), coefs.data(), samples, terms, each, sums.data(), kHere);
    CHECK(sums == predicted, "sum_over_terms_cuda %ld %ld", long(samples), long(terms));
  }
  const int64_t spans = (samples + spex::kParitySpan - 1) / spex::kParitySpan;
  auto parts = garbage<double>(terms * spans);
  spex::sum_over_spans_cuda(bits.data(), values.data(), samples, terms, spans, parts.data(), kHere);
  spex::sum_of_spans_cuda(parts.data(), terms, spans, out.data(), kHere);
  CHECK(out == added, "sum_over_spans_cuda %ld %ld", long(samples), long(terms));
  auto gram = garbage<double>(terms * terms), expected = gram;
  spex::parity_gram_cuda(bits.data(), terms, samples, gram.data(), kHere);
  spex::parity_gram_cpu(bits.data(), terms, samples, expected.data(), spex::Isa{}, 1);
  CHECK(gram == expected, "parity_gram_cuda %ld %ld", long(samples), long(terms));
}

}  // namespace

void test_cuda() {
  if (!kFibers) return;
  const TestCode small(6, 0x43, 3, 40), large(9, 0x211, 5, 460);
  for (const bool downwards : {false, true}) {
    spex::emulated::downwards = downwards;
    for (const int b : {2, 5, 9, 10, 12, 13}) check_fwht<float>(3, b);
    for (const int b : {1, 4, 8, 11, 12, 13}) check_fwht<double>(3, b);
    check_fwht<float>(1, 15);
    check_fwht<float>(1, 16);
    check_fwht<double>(1, 15);
    check_fwht<double>(0, 4);
    check_parity(0, 3, 2);
    check_parity(130, 0, 1);
    check_parity(1, 1, 1);
    check_parity(700, 67, 3);
    check_parity(4200, 2, 1);
    check_bch(small, 3, 37, 0, 1);
    check_bch(small, 3, 37, 4, 1);
    check_bch(large, 5, 21, 4, 8);
    check_bch(small, 3, 0, 4, 2);
    for (const int chase : {0, 4}) {
      check_peel(small, 3, 40, 3, 3, 6, chase, 0.0);
      check_peel(small, 3, 40, 4, 4, 12, chase, 0.3);
      check_peel(small, 3, 40, 3, 2, 0, chase, 1.0);
    }
  }
  spex::emulated::downwards = false;
}
