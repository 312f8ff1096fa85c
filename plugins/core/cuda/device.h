// What the current device can do.
#ifndef SWITCH_CORE_CUDA_DEVICE_H_
#define SWITCH_CORE_CUDA_DEVICE_H_

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace switch_ops::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

struct Device {
  int major, minor;  // compute capability
  int processors;    // streaming multiprocessors
  int shared_bytes;  // the most dynamic shared memory of one block
};

// Of the current device, asked once for each. Throws std::runtime_error where there is none.
const Device& current_device();

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_DEVICE_H_
