#include "settle.h"

#include <algorithm>
#include <cmath>

namespace spex {

bool settle_cpu(const double* values, int64_t rows, int64_t count, double* out, uint8_t* there) {
  bool fine = true;
  for (int64_t i = 0; i < rows * count; ++i) fine &= std::isfinite(values[i]);
  for (int64_t row = 0; row < rows; ++row) fine &= there[row] == 0;
  if (!fine) return false;
  std::copy_n(values, rows * count, out);
  std::fill_n(there, rows, 1);
  return true;
}

}  // namespace spex
