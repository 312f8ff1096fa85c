// The operators of switch_cuda.h inside the library: the same, with exceptions.
#ifndef SWITCH_CORE_CUDA_OPERATORS_H_
#define SWITCH_CORE_CUDA_OPERATORS_H_

#include "../operators.h"
#include "switch_cuda.h"

namespace switch_ops::cuda {

struct Stream {
  void* handle = nullptr;  // cudaStream_t
  bool overlap = true;
};

inline Weight weight_of(const switch_cuda_weight& w) {
  return {static_cast<WeightType>(w.type), w.data, w.scale, w.rows, w.columns, w.block, w.count};
}

// The SwitchMoE of operators.h; `x`, `expert`, `gate`, weights and `y` on the device.
struct MoeMemory {
  void* workspace;
  size_t bytes;
  bool accumulate = false;  // add to y
};
size_t moe_workspace(const Moe& a);
void moe(const Stream& stream, const Moe& a, const MoeMemory& memory);

void linear(const Stream& stream, const switch_cuda_linear& a);
void route(const Stream& stream, const switch_cuda_router& a);
void cached_attention(const Stream& stream, const switch_cuda_cached_attention& a);
void cross_attention(const Stream& stream, const switch_cuda_cross_attention& a);

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_OPERATORS_H_
