// Peeling on a device with 2^33 readings: the last of its bins and sets, on memory where only what
// is touched exists.
#include <sys/mman.h>

#include "check.h"
#include "code.h"
#include "peel_fit.cuh"

using namespace spex_test;

namespace {

constexpr int64_t kFar = int64_t{1} << 31;

class Spacious {
 public:
  explicit Spacious(int64_t bytes) : bytes_(bytes) {
    base_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(base_ != MAP_FAILED, "no %ld bytes of addresses", long(bytes));
  }
  ~Spacious() { munmap(base_, bytes_); }
  char* at() const { return static_cast<char*>(base_); }

 private:
  const size_t bytes_;
  void* base_;
};

}  // namespace

void test_peel_offsets() {
  const TestCode code(6, 0x43, 3, 40);
  constexpr int kGroups = 15, kB = 23;
  std::vector<int32_t> hash(kGroups * 40, (1 << kB) - 1);  // the last bin of every group
  const spex::PeelProblem q{code.view(), kGroups, 64, kB, hash.data(), nullptr, 3, 1e-9};
  const Spacious memory(spex::peel_cuda_bytes(q));
  spex::Arena arena(memory.at());
  spex::PeelSpace s = spex::peel_space(q, arena);
  CHECK(arena.used() == spex::peel_cuda_bytes(q), "the memory");
  CHECK(s.bins * q.shifts > 3 * kFar && s.sets == INT32_MAX, "%ld sets", long(s.sets));

  const int32_t key[] = {1, 7, 0, 0}, last = INT32_MAX - 1;
  s.table = 64;
  std::fill(s.entries, s.entries + s.table, spex::kNoSet);
  s.counters[spex::kSets] = last;
  const spex::KnownSets sets(q, s);
  CHECK(sets.add(key) == last && sets.find(key) == spex::kNoSet, "a set of its own");
  sets.list(last);
  CHECK(sets.find(key) == last, "found again");
  CHECK(sets.bits(last)[0] == q.code.columns[7], "its signs");
  for (int g = 0; g < kGroups; ++g)
    CHECK(sets.bin(last, g) == (int64_t{g + 1} << kB) - 1, "its bin in group %d", g);

  const int64_t bin = s.bins - 1;
  const int32_t places[] = {last, 5, 3};
  s.start[bin] = s.terms * kGroups - 3;
  s.start[bin + 1] = s.terms * kGroups;
  const spex::BinMembers members(q, s);
  for (const int32_t place : places) {
    members.put(bin, place);
    s.term[place] = last;
    s.x[place] = 1 + place % 4;
  }
  members.sort(bin);
  const int32_t* listed = s.members + s.terms * kGroups - 3;
  CHECK(listed[0] == 3 && listed[1] == 5 && listed[2] == last, "in their order");
  const double sum = 4 + 2 + 3;
  for (int p = 0; p < q.shifts; ++p) {
    const double sign = spex::bit_at(sets.bits(last), p) ? -1 : 1;
    CHECK(members.reading(bin, p, s.x) == sign * sum, "what they read at delay %d", p);
    s.residual[bin * q.shifts + p] = sign * sum;
  }
  s.energy[bin] = spex::sum_of_squares(s.residual + bin * q.shifts, q.shifts);
  const spex::Residual left{s.residual, s.energy};
  const uint32_t group = 1u << (kGroups - 1);
  CHECK(spex::estimate(q, left, sets.bins(last), sets.bits(last), group) == sum, "the estimate");
}
