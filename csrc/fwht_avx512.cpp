#if defined(__x86_64__)

#include "fwht_kernel.h"

namespace spex {

extern const FwhtKernel<float> fwht_avx512_f32 = Fwht<float, 64>::kernel();
extern const FwhtKernel<double> fwht_avx512_f64 = Fwht<double, 64>::kernel();

}  // namespace spex

#endif
