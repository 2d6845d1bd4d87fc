#include "dot3.h"

namespace spex {
namespace {

// Compiled once for each instruction set below; the compiler makes the vectors.
__attribute__((always_inline)) inline double lanes(const double* a, const double* b,
                                                   const double* c, int size) {
  double lane[8] = {};
  int p = 0;
  for (; p + 8 <= size; p += 8)
    for (int i = 0; i < 8; ++i) lane[i] += a[p + i] * b[p + i] * c[p + i];
  for (; p < size; ++p) lane[p % 8] += a[p] * b[p] * c[p];
  return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

double portable(const double* a, const double* b, const double* c, int size) {
  return lanes(a, b, c, size);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) double avx2(const double* a, const double* b, const double* c,
                                            int size) {
  return lanes(a, b, c, size);
}

__attribute__((target("avx512f,prefer-vector-width=512"))) double avx512(const double* a,
                                                                         const double* b,
                                                                         const double* c,
                                                                         int size) {
  return lanes(a, b, c, size);
}
#endif

}  // namespace

Dot3 dot3_for(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return avx512;
  if (isa >= Isa::avx2) return avx2;
#endif
  (void)isa;
  return portable;
}

}  // namespace spex
