// CUDA's threads on the host, for tests: each is a fiber of its own, so that a kernel's source runs
// as it stands, barriers, shuffles and shared memory included. Within a block threads run from one
// barrier to the next, one after the other, upwards or downwards: what is right in both orders has
// no race between two barriers that shows in its result. A barrier that not all threads reach ends
// the program. Shared memory starts as garbage.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#include "place.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define threadIdx (::spex::emulated::fiber->thread)
#define blockIdx (::spex::emulated::fiber->block)
#define blockDim (::spex::emulated::block_size)
#define gridDim (::spex::emulated::grid_size)
#define SPEX_DYNAMIC_SHARED(T, name) \
  T* name = reinterpret_cast<T*>(::spex::emulated::fiber->group->shared.data())

namespace spex {

namespace emulated {

struct Index {
  unsigned x;
};

constexpr int kWarp = 32;

// Threads that wait for one another.
struct Barrier {
  int members = 0, arrived = 0;
  int64_t passed = 0;
};

// An access of a warp to shared memory: bytes of a lane, and where in the block's memory each has
// them.
struct Access {
  int bytes;
  std::array<int, kWarp> at;
};

struct Warp {
  Barrier barrier;
  double slots[2][kWarp];  // what a shuffle hands over, and the next one
  std::vector<Access> accesses;
};

struct Group {  // a block
  Barrier barrier;
  std::vector<Warp> warps;
  struct alignas(16) Sixteen {
    unsigned char bytes[16];
  };
  std::vector<Sixteen> shared;
};

struct Fiber {
  ucontext_t context;  // where it begins
  jmp_buf here;        // where it goes on
  std::unique_ptr<char[]> stack;
  Index thread, block;
  Group* group;
  int shuffles = 0, accesses = 0;
  bool begun = false, done = false;
};

inline Fiber* fiber = nullptr;  // the one that runs
inline Index block_size, grid_size;
inline Barrier grid_barrier;
inline ucontext_t scheduler_context;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline bool downwards = false;        // the order in which threads run
inline int shared_limit = 163 << 10;  // bytes, of sm_80
inline int most_shared = 0;           // bytes of shared memory of any launch so far
inline bool records = false;          // whether accesses to shared memory are kept
inline std::vector<Access> recorded;  // those that were
inline int64_t launches = 0;
inline int64_t steps = 0;  // barriers passed and threads ended
// Where not negative: of the launches from now on only this one counts, and of it only this block;
// so that a block can be looked at that is far from the first.
inline int64_t only_launch = -1, only_block = 0;

inline void wait(Barrier& barrier) {
  const int64_t before = barrier.passed;
  if (++barrier.arrived == barrier.members) {
    barrier.arrived = 0;
    ++barrier.passed;
    ++steps;
  }
  while (barrier.passed == before)
    if (!_setjmp(fiber->here)) _longjmp(scheduler, 1);
}

inline void enter() {
  body();
  fiber->done = true;
  ++steps;
  _longjmp(scheduler, 1);
}

// Lets a thread run to its next barrier. Jumps are much faster than swapcontext, which asks the
// system for the signal mask each time.
__attribute__((noinline)) inline void resume(Fiber& next) {
  fiber = &next;
  if (_setjmp(scheduler)) return;
  if (next.begun) _longjmp(next.here, 1);
  next.begun = true;
  setcontext(&next.context);
}

// Runs `threads` threads in each of the blocks [first, last), all at once.
inline void run(unsigned first, unsigned last, unsigned threads, int shared) {
  constexpr size_t kStack = 256 << 10;
  static std::vector<std::unique_ptr<Fiber>> pool;
  const size_t count = size_t{last - first} * threads;
  while (pool.size() < count) {
    pool.push_back(std::make_unique<Fiber>());
    pool.back()->stack.reset(new char[kStack]);
  }
  std::vector<Group> groups(last - first);
  for (Group& group : groups) {
    group.barrier.members = static_cast<int>(threads);
    group.warps.resize(threads / kWarp);
    for (Warp& warp : group.warps) warp.barrier.members = kWarp;
    group.shared.resize((shared + 15) / 16);
    if (shared) std::memset(group.shared.data(), 0xFF, 16 * group.shared.size());
  }
  grid_barrier = {static_cast<int>(count), 0, 0};
  for (size_t i = 0; i < count; ++i) {
    Fiber& f = *pool[i];
    f.thread = {static_cast<unsigned>(i % threads)};
    f.block = {static_cast<unsigned>(first + i / threads)};
    f.group = &groups[i / threads];
    f.shuffles = f.accesses = 0;
    f.begun = f.done = false;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = &scheduler_context;
    makecontext(&f.context, enter, 0);
  }
  for (size_t left = count; left > 0;) {
    const int64_t before = steps;
    for (size_t k = 0; k < count; ++k) {
      Fiber& next = *pool[downwards ? count - 1 - k : k];
      if (next.done) continue;
      resume(next);
      left -= next.done;
    }
    if (steps == before) {
      std::fprintf(stderr, "a barrier was not reached by all of its threads\n");
      std::abort();
    }
  }
  for (const Group& group : groups)
    for (const Warp& warp : group.warps)
      recorded.insert(recorded.end(), warp.accesses.begin(), warp.accesses.end());
}

}  // namespace emulated

// Records an access that may be to shared memory. The lanes of a warp must not diverge: the n-th
// access of one is that of all.
inline void note_access(const void* at, int bytes) {
  using namespace emulated;
  if (!records) return;
  const auto& shared = fiber->group->shared;
  const auto offset = static_cast<const char*>(at) - reinterpret_cast<const char*>(shared.data());
  if (offset < 0 || offset >= static_cast<int64_t>(16 * shared.size())) return;
  auto& accesses = fiber->group->warps[fiber->thread.x / kWarp].accesses;
  const size_t number = fiber->accesses++;
  if (number == accesses.size()) accesses.push_back({bytes, {}});
  accesses[number].at[fiber->thread.x % kWarp] = static_cast<int>(offset);
}

inline int shared_limit(const Place&) { return emulated::shared_limit; }

inline void grid_sync() { emulated::wait(emulated::grid_barrier); }

template <typename... Parameters>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared, const Place&,
            std::common_type_t<Parameters>... given) {
  emulated::body = [&] { kernel(given...); };
  emulated::block_size = {static_cast<unsigned>(threads)};
  emulated::grid_size = {static_cast<unsigned>(blocks)};
  emulated::most_shared = std::max(emulated::most_shared, shared);
  ++emulated::launches;
  unsigned first = 0, last = static_cast<unsigned>(blocks);
  if (emulated::only_launch >= 0) {
    first = static_cast<unsigned>(emulated::only_block);
    last = emulated::only_launch == emulated::launches && first < last ? first + 1 : first;
  }
  for (unsigned block = first; block < last; ++block)
    emulated::run(block, block + 1, static_cast<unsigned>(threads), shared);
}

// Three blocks of one warp: enough to have threads wait for other blocks.
template <typename... Parameters>
void launch_resident(void (*kernel)(Parameters...), int64_t blocks, int, const Place&,
                     std::common_type_t<Parameters>... given) {
  const unsigned some = blocks < 3 ? static_cast<unsigned>(blocks) : 3;
  emulated::body = [&] { kernel(given...); };
  emulated::block_size = {emulated::kWarp};
  ++emulated::launches;
  emulated::grid_size = {some};
  emulated::run(0, some, emulated::kWarp, 0);
}

}  // namespace spex

inline void __syncthreads() { spex::emulated::wait(spex::emulated::fiber->group->barrier); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  using namespace spex::emulated;
  static_assert(sizeof(T) <= sizeof(double));
  const unsigned lane = fiber->thread.x % kWarp;
  Warp& warp = fiber->group->warps[fiber->thread.x / kWarp];
  double* slots = warp.slots[fiber->shuffles++ % 2];
  std::memcpy(slots + lane, &value, sizeof(T));
  wait(warp.barrier);
  std::memcpy(&value, slots + (lane ^ lanes), sizeof(T));
  return value;
}

template <typename T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}

template <typename T>
T atomicMin(T* at, T value) {
  const T before = *at;
  if (value < before) *at = value;
  return before;
}

template <typename T>
T atomicCAS(T* at, T expected, T value) {
  const T before = *at;
  if (before == expected) *at = value;
  return before;
}
