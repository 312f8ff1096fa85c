// Sums and maxima over a warp or a block, always in the same order.
#ifndef SWITCH_CORE_CUDA_REDUCE_H_
#define SWITCH_CORE_CUDA_REDUCE_H_

#include <cuda_runtime.h>

namespace switch_ops::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

__device__ __forceinline__ float warp_sum(float v) {
  for (int step = kWarp / 2; step > 0; step /= 2) v += __shfl_xor_sync(kAllLanes, v, step);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, step));
  }
  return v;
}

// The sum over this lane and those below it.
__device__ __forceinline__ int warp_sum_to(int v) {
  for (int step = 1; step < kWarp; step *= 2) {
    const int below = __shfl_up_sync(kAllLanes, v, static_cast<unsigned>(step));
    if (static_cast<int>(threadIdx.x) % kWarp >= step) v += below;
  }
  return v;
}

// The sum over the threads before this one, in a block of whole warps. `memory`: an int for each
// warp, which nobody uses until the block's next barrier after this.
__device__ __forceinline__ int block_sum_before(int v, int* memory) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, up_to = warp_sum_to(v);
  if (threadIdx.x % kWarp == kWarp - 1) memory[warp] = up_to;
  __syncthreads();
  int total = up_to - v;
  for (int i = 0; i < warp; ++i) total += memory[i];
  return total;
}

// Over all threads of a block of whole warps; every thread gets the result. `memory`: 32 floats of
// shared memory that nobody uses until the block's next barrier after this.
__device__ __forceinline__ float block_sum(float v, float* memory) {
  v = warp_sum(v);
  __syncthreads();  // who still reads `memory` has finished
  if (threadIdx.x % kWarp == 0) memory[threadIdx.x / kWarp] = v;
  __syncthreads();
  float total = 0;
  for (unsigned i = 0; i < blockDim.x / kWarp; ++i) total += memory[i];
  return total;
}
__device__ __forceinline__ float block_max(float v, float* memory) {
  v = warp_max(v);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) memory[threadIdx.x / kWarp] = v;
  __syncthreads();
  float most = memory[0];
  for (unsigned i = 1; i < blockDim.x / kWarp; ++i) most = fmaxf(most, memory[i]);
  return most;
}

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_REDUCE_H_
