// The product kernel of parity_bits alone: a block of 512 masks, transposed on the way, against
// supports that are laid out already. One thread, CPU time, best of 400; JSON to stdout. `make
// bench` keeps it in bench/results/parity_block.json.
#include "parity_block.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <memory>
#include <random>

namespace {

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

double best_seconds(const spex::Terms& terms, const uint64_t* masks, spex::Row* rows) {
  constexpr int kCalls = 20;
  const auto scratch = std::make_unique<spex::Terms::Scratch>();
  double best = 1;
  for (int round = 0; round < 400; ++round) {
    const double start = cpu_seconds();
    for (int call = 0; call < kCalls; ++call)
      terms.parities(masks, spex::kBlockSamples, *scratch, rows);
    best = std::min(best, (cpu_seconds() - start) / kCalls);
  }
  return best;
}

}  // namespace

int main() {
  const char* comma = "[";
  for (int isa = 0; isa <= static_cast<int>(spex::best_isa()); ++isa)
    for (const int64_t words : {4, 8, 16})
      for (const int64_t count : {256, 1024}) {
        std::mt19937_64 next(1);
        std::vector<uint64_t> masks(spex::kBlockSamples * words), support(count * words);
        for (uint64_t& word : masks) word = next();
        for (uint64_t& word : support) word = next();
        const spex::Terms terms(support.data(), count, words, spex::resolve_isa(isa));
        std::vector<spex::Row> rows(count);
        const double products = double(spex::kBlockSamples) * count * 64 * words;
        std::printf("%s\n {\"isa\": %d, \"n\": %d, \"terms\": %d, \"Tbit_per_s\": %.2f}", comma,
                    isa, int(64 * words), int(count),
                    products / best_seconds(terms, masks.data(), rows.data()) / 1e12);
        comma = ",";
      }
  std::puts("\n]");
}
