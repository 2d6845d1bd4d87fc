#if defined(__x86_64__)

#include "fwht_kernel.h"

namespace spex {

const FwhtKernels fwht_avx2 = fwht_kernels<32>();

}  // namespace spex

#endif
