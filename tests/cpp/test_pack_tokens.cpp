#include <numeric>

#include "bits.h"
#include "check.h"
#include "pack_tokens.h"

using namespace spex_test;

namespace {

struct Shape {
  int64_t samples, n, length;
};

// The tokens that each mask keeps, one bit at a time; owners in any order, some features without.
struct Problem {
  explicit Problem(Shape shape, bool sorted) : shape(shape) {
    const auto [samples, n, length] = shape;
    words = spex::ceil_div(n, 64);
    masks = random_words(samples * words, 1);  // bits beyond n are garbage
    if (sorted)                                // few distinct masks, equal ones side by side
      for (int64_t t = 0; t < samples; ++t)
        for (int64_t w = 0; w < words; ++w) masks[t * words + w] = t * 5 / samples << 60 | 7;
    for (const uint64_t word : random_words(length, 2)) owner.push_back(word % (n + 1));
    ids.resize(length);
    std::iota(ids.begin(), ids.end(), 1000);
    for (int64_t t = 0; t < samples; ++t) {
      kept.emplace_back();
      for (int64_t l = 0; l < length; ++l)
        if (owner[l] == n || masks[t * words + owner[l] / 64] >> (owner[l] % 64) & 1)
          kept.back().push_back(l);
    }
  }

  spex::TokenLayout layout() const { return {ids.data(), owner.data(), shape.length, shape.n}; }

  Shape shape;
  int64_t words;
  std::vector<uint64_t> masks;
  std::vector<int64_t> ids, owner;
  std::vector<std::vector<int64_t>> kept;
};

void check_packs(const Problem& p, int threads) {
  const auto [samples, n, length] = p.shape;
  std::vector<int64_t> lengths(n), starts{0};
  int64_t fixed = 0;
  for (const int64_t owner : p.owner) ++(owner == n ? fixed : lengths[owner]);
  auto out = garbage<int64_t>(samples);
  spex::mask_lengths_cpu(p.masks.data(), lengths.data(), samples, n, fixed, out.data(), threads);
  for (int64_t t = 0; t < samples; ++t) {
    CHECK(out[t] == static_cast<int64_t>(p.kept[t].size()), "mask_lengths n=%ld", long(n));
    starts.push_back(starts.back() + out[t]);
  }
  for (const bool original : {false, true}) {
    auto ids = garbage<int64_t>(starts.back()), positions = ids;
    auto sequence = garbage<int32_t>(starts.back());
    spex::pack_tokens_cpu(p.layout(), p.masks.data(), samples, starts.data(), original, ids.data(),
                          positions.data(), sequence.data(), threads);
    for (int64_t t = 0, i = 0; t < samples; ++t)
      for (int64_t k = 0; k < out[t]; ++k, ++i) {
        const int64_t token = p.kept[t][k];
        CHECK(ids[i] == 1000 + token && positions[i] == (original ? token : k) && sequence[i] == t,
              "pack_tokens n=%ld mask=%ld token=%ld", long(n), long(t), long(token));
      }
  }
}

void check_trie(const Problem& p, int threads) {
  const auto [samples, n, length] = p.shape;
  auto first = garbage<int64_t>(samples), shared = first, added = first, last = first;
  spex::trie_prefixes_cpu(p.layout(), p.masks.data(), samples, first.data(), shared.data(),
                          added.data(), threads);
  std::vector<int64_t> starts{0};
  for (const int64_t count : added) starts.push_back(starts.back() + count);
  const int64_t nodes = starts.back();
  auto ids = garbage<int64_t>(nodes), positions = ids, ends = ids;
  spex::pack_trie_cpu(p.layout(), p.masks.data(), samples, first.data(), shared.data(),
                      starts.data(), false, ids.data(), positions.data(), ends.data(), last.data(),
                      threads);
  // The nodes that the last node of a mask may attend to are the tokens of that mask, in order.
  for (int64_t t = 0; t < samples; ++t) {
    std::vector<int64_t> path;
    for (int64_t q = 0; q <= last[t]; ++q)
      if (last[t] < ends[q]) {
        CHECK(positions[q] == static_cast<int64_t>(path.size()), "pack_trie depth");
        path.push_back(ids[q] - 1000);
      }
    CHECK(path == p.kept[t], "pack_trie n=%ld mask=%ld threads=%d", long(n), long(t), threads);
    CHECK(shared[t] + added[t] == static_cast<int64_t>(path.size()), "pack_trie shared");
  }
}

}  // namespace

void test_pack_tokens() {
  for (const int64_t n : {1, 63, 64, 65, 200})
    for (const int64_t length : {0, 1, 100, 333})
      for (const int64_t samples : {0, 1, 2, 65, 700})
        for (const bool sorted : {false, true}) {
          const Problem problem({samples, n, length}, sorted);
          for (const int threads : {1, 2, 7}) {
            check_packs(problem, threads);
            if (samples < 100) check_trie(problem, threads);
          }
        }
}
