#include <initializer_list>
#include <limits>

#include "check.h"
#include "settle.h"

using namespace spex_test;

// All or nothing.
void test_settle() {
  using limits = std::numeric_limits<double>;
  for (int64_t rows : {0, 1, 7, 100})
    for (int64_t count : {1, 3}) {
      const auto values = random_integers<double>(rows * count, 1);
      auto out = garbage<double>(rows * count);
      std::vector<uint8_t> there(rows, 0);
      CHECK(spex::settle_cpu(values.data(), rows, count, out.data(), there.data()), "rows=%ld",
            long(rows));
      CHECK(out == values && there == std::vector<uint8_t>(rows, 1), "rows=%ld", long(rows));
      for (int64_t row = 0; row < rows; ++row) {
        std::vector<uint8_t> one(rows, 0);
        one[row] = 1;
        const auto before = one;
        CHECK(!spex::settle_cpu(values.data(), rows, count, out.data(), one.data()), "row=%ld",
              long(row));
        CHECK(one == before, "row=%ld", long(row));
      }
      for (double bad : {limits::infinity(), -limits::infinity(), limits::quiet_NaN()})
        for (int64_t at = 0; at < rows * count; ++at) {
          auto wrong = values;
          wrong[at] = bad;
          std::vector<uint8_t> none(rows, 0);
          CHECK(!spex::settle_cpu(wrong.data(), rows, count, out.data(), none.data()), "at=%ld",
                long(at));
          CHECK(out == values && none == std::vector<uint8_t>(rows, 0), "at=%ld", long(at));
        }
    }
}
