// What the kernels in *.cu use beyond plain C++. By nvcc it is the CUDA runtime; where
// SPEX_EMULATED is defined any C++ compiler makes of the same files kernels that run on the host
// (emulated.h), which is how they are tested where there is no GPU.
#pragma once

#include <cstdint>

#include "place.h"

#if defined(SPEX_EMULATED)

#include "emulated.h"

#else

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <type_traits>

// T* name: the shared memory that the launch gives to each block.
#define SPEX_DYNAMIC_SHARED(T, name)                               \
  extern __shared__ __align__(16) unsigned char spex_shared_##T[]; \
  T* name = reinterpret_cast<T*>(spex_shared_##T)

namespace spex {

__device__ inline void grid_sync() { cooperative_groups::this_grid().sync(); }

__device__ inline void note_access(const void*, int) {}  // the emulation records it

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Makes the device current while it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device_) check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  }
  ~DeviceGuard() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  const int device_;
  int before_ = 0;
};

// The most bytes of shared memory that a block can have.
inline int shared_limit(const Place& place) {
  int limit = 0;
  check_cuda(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, place.device),
             "cudaDeviceGetAttribute");
  return limit;
}

// Starts a kernel; `shared` is the bytes of shared memory of a block.
template <typename... Parameters>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared,
            const Place& place, std::common_type_t<Parameters>... given) {
  const DeviceGuard guard(place.device);
  if (shared > 48 << 10)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
               "cudaFuncSetAttribute");
  void* addresses[] = {&given...};
  check_cuda(cudaLaunchKernel(reinterpret_cast<const void*>(kernel),
                              dim3(static_cast<unsigned>(blocks)), dim3(threads), addresses, shared,
                              reinterpret_cast<cudaStream_t>(place.stream)),
             "cudaLaunchKernel");
}

// Starts a kernel whose blocks are all resident, as many as fit but at most `blocks`, so that they
// can wait for one another in grid_sync.
template <typename... Parameters>
void launch_resident(void (*kernel)(Parameters...), int64_t blocks, int threads, const Place& place,
                     std::common_type_t<Parameters>... given) {
  const DeviceGuard guard(place.device);
  int processors = 0, each = 0;
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, place.device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, 0),
             "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  const int64_t fit = int64_t{processors} * each;
  void* addresses[] = {&given...};
  check_cuda(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel),
                                         dim3(static_cast<unsigned>(blocks < fit ? blocks : fit)),
                                         dim3(threads), addresses, 0,
                                         reinterpret_cast<cudaStream_t>(place.stream)),
             "cudaLaunchCooperativeKernel");
}

}  // namespace spex

#endif
