#include <initializer_list>

#include "check.h"
#include "records.h"

using namespace spex_test;

namespace {

// Every record is whole, or marked, as it was filled; with any one bit changed it is damaged.
void check(int64_t rows, int64_t words, int64_t values) {
  const spex::RecordLayout layout{words, values, 0x0123456789ABCDEF};
  const int64_t width = words + values + 1;
  const auto masks = random_words(rows * words, 1), numbers = random_words(rows * values, 2);
  std::vector<uint8_t> marks(rows);
  for (int64_t row = 0; row < rows; ++row) marks[row] = row % 3 == 0;
  auto records = garbage<uint64_t>(rows * width), keys = garbage<uint64_t>(rows);
  spex::fill_records_cpu(layout, masks.data(), numbers.data(), marks.data(), rows, records.data(),
                         keys.data());
  auto found = garbage<uint64_t>(rows), alone = garbage<uint64_t>(rows);
  auto state = garbage<uint8_t>(rows);
  spex::mask_keys_cpu(masks.data(), rows, words, alone.data());
  spex::check_records_cpu(layout, records.data(), rows, found.data(), state.data());
  CHECK(found == keys && alone == keys, "rows=%ld words=%ld", long(rows), long(words));
  for (int64_t row = 0; row < rows; ++row) {
    CHECK(state[row] == (marks[row] ? spex::kMarked : spex::kWhole), "row=%ld", long(row));
    const uint64_t* record = records.data() + row * width;
    CHECK(std::equal(record, record + words, masks.data() + row * words), "row=%ld", long(row));
    CHECK(std::equal(record + words, record + width - 1, numbers.data() + row * values), "row=%ld",
          long(row));
  }
  for (int64_t bit = 0; rows && bit < 64 * width; ++bit) {
    std::vector<uint64_t> broken(records.begin(), records.begin() + width);
    broken[bit / 64] ^= uint64_t{1} << bit % 64;
    spex::check_records_cpu(layout, broken.data(), 1, found.data(), state.data());
    CHECK(state[0] == spex::kDamaged, "bit=%ld of %ld words", long(bit), long(width));
  }
}

}  // namespace

void test_records() {
  for (int64_t rows : {0, 1, 7, 100})
    for (int64_t words : {1, 2, 3, 16, 17})
      for (int64_t values : {1, 2, 5}) check(rows, words, values);
}
