#if defined(__x86_64__)

#include "fwht_kernel.h"

namespace spex {

extern const FwhtKernel<float> fwht_avx2_f32 = Fwht<float, 32>::kernel();
extern const FwhtKernel<double> fwht_avx2_f64 = Fwht<double, 32>::kernel();

}  // namespace spex

#endif
