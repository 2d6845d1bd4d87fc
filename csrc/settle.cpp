#include "settle.h"

#include <cmath>
#include <cstring>

namespace spex {

bool settle_cpu(const double* values, int64_t rows, int64_t count, double* out, uint8_t* there) {
  bool fine = true;
  for (int64_t i = 0; i < rows * count; ++i) fine &= std::isfinite(values[i]);
  for (int64_t row = 0; row < rows; ++row) fine &= there[row] == 0;
  if (!fine) return false;
  std::memcpy(out, values, rows * count * sizeof *values);
  std::memset(there, 1, rows);
  return true;
}

}  // namespace spex
