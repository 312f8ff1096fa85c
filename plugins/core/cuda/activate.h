// The activations of docs/operators.md on a device.
#ifndef SWITCH_CORE_CUDA_ACTIVATE_H_
#define SWITCH_CORE_CUDA_ACTIVATE_H_

#include <cuda_runtime.h>

#include "../kernels.h"

namespace switch_ops::cuda {

__device__ __forceinline__ float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::kRelu: return x > 0 ? x : 0;
    case Activation::kGelu: return 0.5f * x * erfcf(-0.70710678118654752f * x);
    case Activation::kGeluTanh:
      return 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu: return x / (1 + expf(-x));
  }
  return x;
}

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_ACTIVATE_H_
