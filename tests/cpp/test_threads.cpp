#include <stdexcept>

#include "check.h"
#include "threads.h"

void test_threads() {
  for (int threads : {-1, 0, 1, 2, 3, 8, 64}) {
    for (int64_t blocks : {0, 1, 2, 7, 1000}) {
      std::vector<int> seen(blocks);
      spex::parallel_for(blocks, threads, [&](int64_t block) { ++seen[block]; });
      for (int64_t i = 0; i < blocks; ++i)
        CHECK(seen[i] == 1, "block %ld ran %d times", long(i), seen[i]);
    }
    bool caught = false;
    try {
      spex::parallel_for(100, threads, [](int64_t block) {
        if (block == 13) throw std::runtime_error("thirteen");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught, "an exception was lost with %d threads", threads);
  }
}
