#include "bits.h"
#include "check.h"
#include "parity.h"

using namespace spex_test;

namespace {

struct Shape {
  int64_t samples, terms, words;
};

void check_shape(Shape shape) {
  const auto [samples, terms, words] = shape;
  const auto masks = random_words(samples * words, 1);
  auto support = random_words(terms * words, 2);  // half of the features, or every other term a few
  const auto thin = random_words(terms * words, 5), thinner = random_words(terms * words, 6);
  for (int64_t i = 0; i < terms * words; ++i)
    if (i / words % 2) support[i] &= thin[i] & thinner[i] & thinner[i] >> 7;
  const auto coefs = random_integers<double>(terms, 3),
             values = random_integers<double>(samples, 4);

  const int64_t row = spex::ceil_div(samples, 64);
  std::vector<int> sign(samples * terms);
  std::vector<uint64_t> bits(terms * row);
  std::vector<double> sums(samples), adjoint(terms), gram(terms * terms);
  for (int64_t i = 0; i < samples; ++i)
    for (int64_t s = 0; s < terms; ++s) {
      const int x = naive_sign(masks.data() + i * words, support.data() + s * words, words);
      sign[i * terms + s] = x;
      if (x < 0) bits[s * row + i / 64] |= uint64_t{1} << (i % 64);
      sums[i] += x * coefs[s];
      adjoint[s] += x * values[i];
    }
  for (int64_t i = 0; i < samples; ++i)
    for (int64_t s = 0; s < terms; ++s)
      for (int64_t u = 0; u < terms; ++u)
        gram[s * terms + u] += sign[i * terms + s] * sign[i * terms + u];

  for_each_way([&](spex::Isa isa, int threads) {
    const auto check = [&](bool equal, const char* kernel) {
      CHECK(equal, "%s samples=%ld terms=%ld words=%ld isa=%d threads=%d", kernel, long(samples),
            long(terms), long(words), int(isa), threads);
    };
    auto out_bits = garbage<uint64_t>(terms * row);
    spex::parity_bits_cpu(masks.data(), support.data(), samples, terms, words, out_bits.data(), isa,
                          threads);
    check(out_bits == bits, "parity_bits");

    auto out = garbage<double>(samples);
    spex::parity_predict_cpu(masks.data(), support.data(), coefs.data(), samples, terms, words,
                             out.data(), isa, threads);
    check(out == sums, "parity_predict");

    out = garbage<double>(terms);
    spex::parity_adjoint_cpu(masks.data(), support.data(), values.data(), samples, terms, words,
                             out.data(), isa, threads);
    check(out == adjoint, "parity_adjoint");

    out = garbage<double>(terms * terms);
    spex::parity_gram_cpu(bits.data(), terms, samples, out.data(), isa, threads);
    check(out == gram, "parity_gram");
  });
}

}  // namespace

void test_parity() {
  for (int64_t samples : {0, 1, 63, 64, 65, 200})
    for (int64_t terms : {0, 1, 7, 8, 9, 33})
      for (int64_t words : {1, 3, 9}) check_shape({samples, terms, words});
  check_shape({1025, 5, 2});
  check_shape({513, 67, 8});
  check_shape({100, 3, 65});
}
