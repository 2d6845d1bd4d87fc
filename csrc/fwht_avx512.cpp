#if defined(__x86_64__)

#include "fwht_kernel.h"

namespace spex {

const FwhtKernels fwht_avx512 = fwht_kernels<64>();

}  // namespace spex

#endif
