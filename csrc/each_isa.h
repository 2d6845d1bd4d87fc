// Compiles a file of kernels once per instruction set, from one source. At the top of a .cpp file,
//
//   #define SPEX_KERNELS "parity_block.inc"
//   #include "each_isa.h"
//
// gives spex::portable, spex::avx2 and spex::avx512 (local to that .cpp), each holding the kernels
// of that file compiled with the V and kLanes of that namespace. SPEX_CHOOSE(isa, kernel) names the
// one to call. The kernels are plain arithmetic on V, a vector of 64-bit lanes (a GCC and Clang
// type), with multiply_low for the products of the low halves of lanes, and mark every function
// SPEX_TARGET; nothing outside them is compiled for more than the base CPU.
#include <cstdint>
#include <cstring>

#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SPEX_VECTOR(bytes)                                \
  using V = uint64_t __attribute__((vector_size(bytes))); \
  constexpr int kLanes = bytes / 8;                       \
  SPEX_TARGET inline V load(const void* from) {           \
    V v;                                                  \
    std::memcpy(&v, from, sizeof v);                      \
    return v;                                             \
  }                                                       \
  SPEX_TARGET inline void store(void* to, V v) { std::memcpy(to, &v, sizeof v); }

namespace spex {
namespace {

namespace portable {
#define SPEX_TARGET
SPEX_VECTOR(16)
#if defined(__x86_64__)
inline V multiply_low(V a, V b) { return (V)_mm_mul_epu32((__m128i)a, (__m128i)b); }
#else
inline V multiply_low(V a, V b) { return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF); }
#endif
#include SPEX_KERNELS
#undef SPEX_TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define SPEX_TARGET __attribute__((target("avx2")))
SPEX_VECTOR(32)
SPEX_TARGET inline V multiply_low(V a, V b) { return (V)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
#include SPEX_KERNELS
#undef SPEX_TARGET
}  // namespace avx2

namespace avx512 {
#define SPEX_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
SPEX_VECTOR(64)
SPEX_TARGET inline V multiply_low(V a, V b) {
  return (V)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, (__m512i)b);  // GCC 12 warns of the plain one
}
#include SPEX_KERNELS
#undef SPEX_TARGET
}  // namespace avx512
#endif

}  // namespace
}  // namespace spex

#if defined(__x86_64__)
#define SPEX_CHOOSE(isa, kernel) \
  ((isa) >= Isa::avx512 ? avx512::kernel : (isa) == Isa::avx2 ? avx2::kernel : portable::kernel)
#else
#define SPEX_CHOOSE(isa, kernel) (static_cast<void>(isa), portable::kernel)
#endif
