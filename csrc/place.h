// Where a kernel of *.cu runs.
#pragma once

#include <cstdint>

namespace spex {

struct Place {
  int device;
  std::uintptr_t stream;  // a cudaStream_t of that device
};

}  // namespace spex
