#if defined(__x86_64__)

#include "packed_attention_kernel.h"

namespace spex {

const AttentionKernels attention_avx2 = Attention<32>::kernels();

}  // namespace spex

#endif
