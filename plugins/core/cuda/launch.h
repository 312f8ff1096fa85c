// One way to start a kernel: checked, on the caller's stream, with or without overlap.
#ifndef SWITCH_CORE_CUDA_LAUNCH_H_
#define SWITCH_CORE_CUDA_LAUNCH_H_

#include <cuda_runtime.h>

#include <utility>

#include "device.h"
#include "operators.h"

namespace switch_ops::cuda {

struct Grid {
  dim3 blocks;
  int threads;
  size_t shared_bytes = 0;
};

// `what` names the kernel in errors. Kernels read nothing that an earlier kernel wrote before
// ptx::dependency_wait, so that all of them may start while that one still runs.
template <typename... Params, typename... Args>
void launch(const Stream& stream, const char* what, const Grid& grid, void (*kernel)(Params...),
            Args&&... args) {
  if (grid.shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          what);
    // All of it: the driver leaves more to the L1 cache otherwise, and fewer blocks fit.
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100), what);
  }
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream.handle);
  config.attrs = &overlap;
  config.numAttrs = stream.overlap && current_device().major >= 9 ? 1 : 0;  // older ones refuse it
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), what);
}

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_LAUNCH_H_
