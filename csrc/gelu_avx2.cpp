#if defined(__x86_64__)

#include "gelu_kernel.h"

namespace spex {

const GeluKernels gelu_avx2 = Gelu<32>::kernels();

}  // namespace spex

#endif
