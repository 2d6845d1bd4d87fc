#include <cmath>

#include "check.h"
#include "packed_attention.h"

using namespace spex_test;

namespace {

float read(float x) { return x; }

float read(spex::BFloat16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void write(float* to, float x) { *to = x; }

void write(spex::BFloat16* to, float x) {  // cut off, not rounded: an input like any other
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  to->bits = uint16_t(bits >> 16);
}

struct Case {
  std::vector<int64_t> starts;
  int64_t heads, key_heads, dim;
  bool causal;
};

template <typename T>
struct Matrix {
  std::vector<T> values;
  int64_t heads, dim;

  Matrix(int64_t tokens, int64_t heads, int64_t dim, int seed)
      : values(tokens * heads * dim), heads(heads), dim(dim) {
    std::mt19937_64 next(seed);
    std::normal_distribution<float> normal;
    for (T& x : values) write(&x, normal(next));
  }

  double at(int64_t token, int64_t head, int64_t d) const {
    return read(values[(token * heads + head) * dim + d]);
  }

  spex::HeadRows<const T> rows() const { return {values.data(), heads * dim, dim}; }
};

// Row i of head h by the definition, in double.
template <typename T>
std::vector<double> by_hand(const Case& c, double scale, const Matrix<T>& query,
                            const Matrix<T>& key, const Matrix<T>& value, int64_t first,
                            int64_t last, int64_t i, int64_t h) {
  const int64_t shared = h / (c.heads / c.key_heads), end = c.causal ? i + 1 : last;
  std::vector<double> out(c.dim);
  double total = 0;
  for (int64_t j = first; j < end; ++j) {
    double score = 0;
    for (int64_t d = 0; d < c.dim; ++d) score += query.at(i, h, d) * key.at(j, shared, d);
    const double weight = std::exp(scale * score);
    total += weight;
    for (int64_t d = 0; d < c.dim; ++d) out[d] += weight * value.at(j, shared, d);
  }
  for (double& x : out) x /= total;
  return out;
}

template <typename T>
void check_case(const Case& c) {
  const int64_t tokens = c.starts.back();
  const float scale = 0.25f;
  const Matrix<T> query(tokens, c.heads, c.dim, 1), key(tokens, c.key_heads, c.dim, 2),
      value(tokens, c.key_heads, c.dim, 3);
  for_each_way([&](spex::Isa isa, int threads) {
    auto out = garbage<T>(tokens * c.heads * c.dim);
    spex::packed_attention_cpu({query.rows(),
                                key.rows(),
                                value.rows(),
                                {out.data(), c.heads * c.dim, c.dim},
                                c.starts.data(),
                                int64_t(c.starts.size()) - 1,
                                c.heads,
                                c.key_heads,
                                c.dim,
                                scale,
                                c.causal},
                               isa, threads);
    for (size_t t = 0; t + 1 < c.starts.size(); ++t)
      for (int64_t i = c.starts[t]; i < c.starts[t + 1]; ++i)
        for (int64_t h = 0; h < c.heads; ++h) {
          const auto want =
              by_hand(c, scale, query, key, value, c.starts[t], c.starts[t + 1], i, h);
          for (int64_t d = 0; d < c.dim; ++d) {
            const double got = read(out[(i * c.heads + h) * c.dim + d]);
            const double bound = 1e-5 + (sizeof(T) == 2 ? std::abs(want[d]) / 256 : 0);
            CHECK(std::abs(got - want[d]) <= bound,
                  "packed_attention token=%ld head=%ld d=%ld dim=%ld isa=%d threads=%d: %g, not %g",
                  long(i), long(h), long(d), long(c.dim), int(isa), threads, got, want[d]);
          }
        }
  });
}

}  // namespace

void test_packed_attention() {
  const std::vector<Case> cases = {
      {{0}, 2, 2, 8, false},
      {{0, 1, 3, 3, 34, 67}, 2, 2, 8, false},
      {{0, 1, 3, 3, 34, 67}, 4, 2, 17, true},
      {{0, 12, 37, 86}, 3, 1, 40, false},
      {{0, 5, 262}, 2, 1, 32, false},
      {{0, 262}, 1, 1, 5, true},
  };
  for (const Case& c : cases) {
    check_case<float>(c);
    check_case<spex::BFloat16>(c);
  }
}
