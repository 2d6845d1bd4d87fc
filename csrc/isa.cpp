#include "isa.h"

#include <stdexcept>
#include <string>

namespace spex {
namespace {

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("popcnt");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const bool gfni = avx512 && __builtin_cpu_supports("avx512vpopcntdq") &&
                    __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni");
  if (gfni) return Isa::gfni;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

}  // namespace

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

Isa resolve_isa(int requested) {
  const Isa best = best_isa();
  if (requested < 0) return best;
  if (requested > static_cast<int>(best)) {
    throw std::invalid_argument("isa " + std::to_string(requested) + " is not on this CPU (best " +
                                std::to_string(static_cast<int>(best)) + ")");
  }
  return static_cast<Isa>(requested);
}

}  // namespace spex
