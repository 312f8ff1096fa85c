#include <array>
#include <mutex>
#include <optional>

#include "device.h"

namespace switch_ops::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

const Device& current_device() {
  static std::mutex mutex;
  static std::array<std::optional<Device>, 64> known;
  int device = 0;
  check(cudaGetDevice(&device), "no CUDA device");
  const std::lock_guard<std::mutex> lock(mutex);
  auto& entry = known.at(static_cast<size_t>(device));
  if (!entry) {
    entry = Device{attribute(cudaDevAttrComputeCapabilityMajor, device),
                   attribute(cudaDevAttrComputeCapabilityMinor, device),
                   attribute(cudaDevAttrMultiProcessorCount, device),
                   attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)};
  }
  return *entry;
}

}  // namespace switch_ops::cuda
