// parallel_for: work split into fixed blocks, so the result never depends on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace spex {

// How many of `threads` to use for work that takes about `nanoseconds` on one: starting a thread
// costs tens of microseconds, so each is given at least 100.
inline int threads_worth(int64_t nanoseconds, int threads) {
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, nanoseconds / 100'000)));
}

// Calls body(block) for each block in [0, blocks), on at most `threads` threads (the caller is one
// of them). Blocks are taken in any order: body must write only what belongs to its block. The
// first exception a body throws is rethrown here once all threads have stopped.
template <typename Body>
void parallel_for(int64_t blocks, int threads, const Body& body) {
  const int workers = static_cast<int>(std::min<int64_t>(std::max(threads, 1), blocks));
  if (workers <= 1) {
    for (int64_t i = 0; i < blocks; ++i) body(i);
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_lock;
  const auto work = [&] {
    try {
      for (int64_t i; (i = next.fetch_add(1)) < blocks;) body(i);
    } catch (...) {
      next.store(blocks);
      const std::lock_guard<std::mutex> guard(error_lock);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(workers - 1);
  for (int i = 1; i < workers; ++i) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace spex
