#pragma once

#include <cstdint>

namespace spex {

struct BFloat16 {
  uint16_t bits;  // the upper half of a float
};

}  // namespace spex
