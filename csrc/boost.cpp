#include "boost.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bits.h"
#include "masks.h"
#include "threads.h"

namespace spex {
namespace {

// A sample's residual, rounded to a whole number q of 14 bits with its sign, and a count of one
// share a 32-bit lane as q * 2**kCountBits + 1, so that one addition sums both, for up to
// kPackedRows samples.
constexpr int kCountBits = 9;
constexpr int32_t kPackedRows = (1 << kCountBits) - 1;
constexpr double kLargest = 8191.0;  // of |q|: kLargest * kPackedRows * 2**kCountBits < 2**31

}  // namespace
}  // namespace spex

#define SPEX_KERNELS "boost.inc"
#include "each_isa.h"

namespace spex {
namespace {

constexpr int kChunkWords = 4;  // words of a mask that lie together, and are summed together

using AddChunk = void (*)(const uint64_t* masks, const int32_t* rows, const int32_t* lanes,
                          int64_t count, double* sums, double* counts);
using AddWord = decltype(&portable::add_word);

template <int kWords, AddWord kAddWord>
void add_chunk(const uint64_t* masks, const int32_t* rows, const int32_t* lanes, int64_t count,
               double* sums, double* counts) {
  for (int word = 0; word < kWords; ++word)
    kAddWord(masks + word, kWords, rows, lanes, count, sums + 64 * word, counts + 64 * word);
}

#if defined(__x86_64__)
// add_word for kWords words at once, with masked additions: the sums stay in registers.
template <int kWords>
__attribute__((target("avx512f,avx512bw"))) void add_chunk_avx512(const uint64_t* masks,
                                                                  const int32_t* rows,
                                                                  const int32_t* lanes,
                                                                  int64_t count, double* sums,
                                                                  double* counts) {
  constexpr int kVectors = 4 * kWords;
  __m512i total[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) total[v] = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; ++i) {
    const __m512i value = _mm512_set1_epi32(lanes[i]);
    uint16_t mask[kVectors];
    std::memcpy(mask, masks + int64_t{rows[i]} * kWords, sizeof mask);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      total[v] = _mm512_mask_add_epi32(total[v], mask[v], total[v], value);
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
    alignas(64) int32_t lane[16];
    _mm512_store_si512(lane, total[v]);
    for (int f = 0; f < 16; ++f) {
      sums[16 * v + f] += lane[f] >> kCountBits;
      counts[16 * v + f] += lane[f] & kPackedRows;
    }
  }
}
#endif

template <int kWords>
AddChunk choose_words(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return add_chunk_avx512<kWords>;
  if (isa == Isa::avx2) return add_chunk<kWords, avx2::add_word>;
#endif
  return add_chunk<kWords, portable::add_word>;
}

AddChunk choose(Isa isa, int words) {
  switch (words) {
    case 1:
      return choose_words<1>(isa);
    case 2:
      return choose_words<2>(isa);
    case 3:
      return choose_words<3>(isa);
    default:
      return choose_words<4>(isa);
  }
}

// Transposes 64 x 64 bits in place: bit j of x[i] and bit i of x[j] change places.
void transpose(uint64_t x[64]) {
  uint64_t low = 0x00000000FFFFFFFF;
  for (int half = 32; half; half /= 2, low ^= low << half)
    for (int k = 0; k < 64; k = (k + half + 1) & ~half) {
      const uint64_t swap = ((x[k] >> half) ^ x[k + half]) & low;
      x[k] ^= swap << half;
      x[k + half] ^= swap;
    }
}

// The masks in the two orders that boosting reads, made once per call.
class Samples {
 public:
  Samples(const BoostProblem& problem, Isa isa, int threads)
      : rows(problem.rows), n(problem.n), words(ceil_div(n, 64)), row_words(ceil_div(rows, 64)) {
    for (int64_t first = 0; first < words; first += kChunkWords) {
      const int width = static_cast<int>(std::min<int64_t>(kChunkWords, words - first));
      Chunk chunk{first, choose(isa, width), std::vector<uint64_t>(rows * width)};
      for (int64_t i = 0; i < rows; ++i)
        std::copy_n(problem.masks + i * words + first, width, chunk.masks.data() + i * width);
      chunks.push_back(std::move(chunk));
    }
    columns_.resize(64 * words * row_words);
    parallel_for(words, threads_worth(words * row_words * 500, threads), [&](int64_t word) {
      for (int64_t at = 0; at < row_words; ++at) {
        uint64_t x[64] = {};
        for (int64_t i = 0; i < std::min<int64_t>(64, rows - 64 * at); ++i)
          x[i] = problem.masks[(64 * at + i) * words + word];
        transpose(x);
        for (int64_t f = 0; f < 64; ++f) columns_[(64 * word + f) * row_words + at] = x[f];
      }
    });
  }

  // Bit i is bit `feature` of mask i.
  const uint64_t* column(int64_t feature) const { return columns_.data() + feature * row_words; }

  struct Chunk {
    int64_t first;  // word
    AddChunk add;
    std::vector<uint64_t> masks;  // (rows, width)
  };

  const int64_t rows, n, words, row_words;
  std::vector<Chunk> chunks;

 private:
  std::vector<uint64_t> columns_;  // (64 words, row_words)
};

template <typename Body>
void for_each_bit(const uint64_t* bits, int64_t words, const Body& body) {
  for (int64_t at = 0; at < words; ++at)
    for (uint64_t word = bits[at]; word; word &= word - 1) body(64 * at + __builtin_ctzll(word));
}

// Sums of residuals and samples by feature, over the samples of a node that have it.
struct Histogram {
  std::vector<double> sums, counts;
};

// A leaf of the tree that is being grown.
struct Leaf {
  int32_t node;  // in the forest
  int depth;
  std::vector<uint64_t> samples;  // of all rows, fitted or not
  double sum, count;              // of the fitted ones
  Histogram histogram;            // empty where it is not to be split
  int64_t feature = -1;           // the best split, if any
  double gain = 0.0;
};

// One fit.
class Fit {
 public:
  Fit(const BoostProblem& problem, const Samples& samples, const BoostSettings& settings,
      const double* values, const uint64_t* bag, int64_t index, Isa isa)
      : problem_(problem),
        samples_(samples),
        settings_(settings),
        bag_(bag),
        index_(index),
        isa_(isa),
        gains_(SPEX_CHOOSE(isa, gains)),
        round_(SPEX_CHOOSE(isa, round_residuals)),
        residuals_(samples.rows),
        lanes_(samples.rows),
        fitted_(samples.row_words),
        gain_(samples.n) {
    double sum = 0.0;
    for_each_bit(bag_, samples.row_words, [&](int64_t i) {
      bagged_.push_back(static_cast<int32_t>(i));
      residuals_[i] = values[i];
      sum += values[i];
    });
    forest_.bias = bagged_.empty() ? 0.0 : sum / bagged_.size();
    for (const int32_t i : bagged_) residuals_[i] -= forest_.bias;
    predictions_.assign(samples.rows, forest_.bias);
  }

  // All trees; staged (num_stages, rows).
  BoostedTrees run(double* staged) {
    const int32_t *stage = problem_.stages, *end = stage + problem_.num_stages;
    for (int tree = 0; tree <= settings_.trees; ++tree) {
      for (; stage < end && *stage == tree; ++stage, staged += samples_.rows)
        std::copy(predictions_.begin(), predictions_.end(), staged);
      if (tree < settings_.trees) add_tree(tree);
    }
    return std::move(forest_);
  }

 private:
  void add_tree(int tree) {
    draw_samples(tree);
    draw_features(tree);
    double largest = 0.0;
    for (const int32_t i : bagged_) largest = std::max(largest, std::abs(residuals_[i]));
    const double scale = largest > 0.0 ? kLargest / largest : 0.0;
    round_(residuals_.data(), samples_.rows, std::isfinite(scale) ? scale : 0.0, lanes_.data());

    std::vector<Leaf> leaves;
    leaves.push_back(root());
    forest_.roots.push_back(leaves[0].node);
    while (static_cast<int>(leaves.size()) < settings_.leaves) {
      const auto best = std::max_element(leaves.begin(), leaves.end(),
                                         [](auto& a, auto& b) { return a.gain < b.gain; });
      if (best->feature < 0) break;
      const bool last = static_cast<int>(leaves.size()) + 1 == settings_.leaves;
      Leaf other = split(*best, last);
      leaves.push_back(std::move(other));
    }
    for (Leaf& leaf : leaves) set_value(leaf);
  }

  // The samples a tree is fitted to.
  void draw_samples(int tree) {
    std::copy(bag_, bag_ + samples_.row_words, fitted_.begin());
    count_ = static_cast<int64_t>(bagged_.size());
    if (settings_.row_share >= 1.0) return;
    const auto chosen = draw(kRowStream, tree, bagged_, settings_.row_share);
    std::fill(fitted_.begin(), fitted_.end(), 0);
    for (const int32_t i : chosen) fitted_[i / 64] |= uint64_t{1} << (i % 64);
    count_ = static_cast<int64_t>(chosen.size());
  }

  // The features a tree may ask for.
  void draw_features(int tree) {
    if (settings_.feature_share >= 1.0) return;
    std::vector<int32_t> all(samples_.n);
    std::iota(all.begin(), all.end(), 0);
    features_ = draw(kFeatureStream, tree, all, settings_.feature_share);
    std::sort(features_.begin(), features_.end());
  }

  // round(share * size) of `all`, at least one: those with the least random words.
  std::vector<int32_t> draw(uint32_t stream, int tree, const std::vector<int32_t>& all,
                            double share) const {
    const int64_t size = static_cast<int64_t>(all.size());
    const int64_t most = std::max<int64_t>(1, std::llround(share * static_cast<double>(size)));
    std::vector<uint64_t> keys(size);
    const int64_t row = index_ * (int64_t{1} << 32) + tree;
    uniform_masks_cpu(problem_.seed, stream, row, 1, 64 * size, keys.data(), isa_, 1);
    std::vector<int32_t> order(size);
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(
        order.begin(), order.begin() + std::min(most, size) - 1, order.end(),
        [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
    order.resize(std::min(most, size));
    for (int32_t& at : order) at = all[at];
    return order;
  }

  Leaf root() {
    Leaf leaf{new_node(), 0, {}, 0.0, static_cast<double>(count_), {}};
    leaf.samples.assign(samples_.row_words, ~uint64_t{0});
    if (samples_.rows % 64) leaf.samples.back() >>= 64 - samples_.rows % 64;
    for_each_bit(fitted_.data(), samples_.row_words,
                 [&](int64_t i) { leaf.sum += lanes_[i] >> kCountBits; });
    if (divisible(leaf)) {
      leaf.histogram = histogram(leaf);
      find_split(leaf);
    }
    return leaf;
  }

  // Splits a leaf by its best feature: it becomes the one without the feature, and the one with it
  // is returned. Neither is to be split again if `last`.
  Leaf split(Leaf& leaf, bool last) {
    const int64_t feature = leaf.feature;
    Histogram whole = std::move(leaf.histogram);
    Leaf other{new_node(),          leaf.depth + 1,        leaf.samples,
               whole.sums[feature], whole.counts[feature], {}};
    const int32_t parent = leaf.node;
    leaf = Leaf{new_node(),           leaf.depth + 1,           std::move(leaf.samples),
                leaf.sum - other.sum, leaf.count - other.count, {}};
    forest_.feature[parent] = static_cast<int32_t>(feature);
    forest_.present[parent] = other.node;
    forest_.absent[parent] = leaf.node;
    const uint64_t* column = samples_.column(feature);
    for (int64_t at = 0; at < samples_.row_words; ++at) {
      other.samples[at] &= column[at];
      leaf.samples[at] &= ~column[at];
    }
    if (last || !(divisible(leaf) || divisible(other))) return other;
    Leaf& small = other.count < leaf.count ? other : leaf;
    Leaf& large = other.count < leaf.count ? leaf : other;
    small.histogram = histogram(small);
    for (size_t f = 0; f < whole.sums.size(); ++f) {
      whole.sums[f] -= small.histogram.sums[f];
      whole.counts[f] -= small.histogram.counts[f];
    }
    large.histogram = std::move(whole);
    for (Leaf* child : {&small, &large}) {
      if (divisible(*child))
        find_split(*child);
      else
        child->histogram = {};
    }
    return other;
  }

  bool divisible(const Leaf& leaf) const {
    return leaf.depth < settings_.depth && leaf.count >= 2.0 * settings_.min_leaf;
  }

  Histogram histogram(const Leaf& leaf) const {
    const size_t size = 64 * samples_.words;
    Histogram out{std::vector<double>(size), std::vector<double>(size)};
    int32_t rows[kPackedRows], lanes[kPackedRows];
    int64_t count = 0;
    const auto flush = [&] {
      for (const Samples::Chunk& chunk : samples_.chunks)
        chunk.add(chunk.masks.data(), rows, lanes, count, out.sums.data() + 64 * chunk.first,
                  out.counts.data() + 64 * chunk.first);
      count = 0;
    };
    for (int64_t at = 0; at < samples_.row_words; ++at)
      for (uint64_t word = leaf.samples[at] & fitted_[at]; word; word &= word - 1) {
        const int64_t i = 64 * at + __builtin_ctzll(word);
        rows[count] = static_cast<int32_t>(i);
        lanes[count] = lanes_[i];
        if (++count == kPackedRows) flush();
      }
    flush();
    return out;
  }

  void find_split(Leaf& leaf) {
    gains_(leaf.histogram.sums.data(), leaf.histogram.counts.data(), samples_.n, leaf.sum,
           leaf.count, static_cast<double>(settings_.min_leaf), settings_.l2, gain_.data());
    const auto consider = [&](int64_t f) {
      if (gain_[f] > leaf.gain) {
        leaf.gain = gain_[f];
        leaf.feature = f;
      }
    };
    if (settings_.feature_share < 1.0)
      for (const int32_t f : features_) consider(f);
    else
      for (int64_t f = 0; f < samples_.n; ++f) consider(f);
  }

  // The value of a leaf, which its samples then predict.
  void set_value(const Leaf& leaf) {
    double sum = 0.0;
    for (int64_t at = 0; at < samples_.row_words; ++at)
      for (uint64_t word = leaf.samples[at] & fitted_[at]; word; word &= word - 1)
        sum += residuals_[64 * at + __builtin_ctzll(word)];
    const double value = settings_.rate * sum / (leaf.count + settings_.l2);
    if (value == 0.0 || !(leaf.count > 0.0)) return;
    forest_.value[leaf.node] = value;
    for_each_bit(leaf.samples.data(), samples_.row_words, [&](int64_t i) {
      residuals_[i] -= value;
      predictions_[i] += value;
    });
  }

  int32_t new_node() {
    for (auto* link : {&forest_.feature, &forest_.absent, &forest_.present}) link->push_back(-1);
    forest_.value.push_back(0.0);
    return static_cast<int32_t>(forest_.value.size()) - 1;
  }

  static constexpr uint32_t kRowStream = 3, kFeatureStream = 4;

  const BoostProblem& problem_;
  const Samples& samples_;
  const BoostSettings& settings_;
  const uint64_t* bag_;
  const int64_t index_;
  const Isa isa_;
  decltype(&portable::gains) gains_;
  decltype(&portable::round_residuals) round_;

  std::vector<int32_t> bagged_;      // the rows of the bag
  std::vector<double> residuals_;    // (rows), of the bag; what the others hold is not read
  std::vector<double> predictions_;  // (rows)
  std::vector<int32_t> lanes_;       // (rows): see kCountBits
  std::vector<uint64_t> fitted_;     // the rows that the tree is fitted to
  std::vector<int32_t> features_;    // that the tree may ask for
  int64_t count_ = 0;                // of fitted_
  std::vector<double> gain_;         // scratch of find_split
  BoostedTrees forest_;
};

}  // namespace

std::vector<BoostedTrees> boost_cpu(const BoostProblem& problem,
                                    const std::vector<BoostSettings>& settings,
                                    const std::vector<const double*>& values,
                                    const std::vector<const uint64_t*>& bags, double* staged,
                                    Isa isa, int threads) {
  const Samples samples(problem, isa, threads);
  std::vector<BoostedTrees> forests(settings.size());
  parallel_for(static_cast<int64_t>(settings.size()), threads, [&](int64_t j) {
    Fit fit(problem, samples, settings[j], values[j], bags[j], j, isa);
    forests[j] = fit.run(staged + j * problem.num_stages * problem.rows);
  });
  return forests;
}

}  // namespace spex
