// The values of a batch into the account of a run, in one pass.
#pragma once

#include <cstdint>

namespace spex {

// values (rows, count) -> out (rows, count) and there (rows), which becomes 1; or, where a value is
// not finite or one is there already, nothing. Returns whether it was done.
bool settle_cpu(const double* values, int64_t rows, int64_t count, double* out, uint8_t* there);

}  // namespace spex
