// The warpgroups that multiply what is in the ring, 64 tokens each, and write the results.
#ifndef SWITCH_CORE_CUDA_WGMMA_MULTIPLY_H_
#define SWITCH_CORE_CUDA_WGMMA_MULTIPLY_H_

#include "numbers.h"
#include "wgmma_ring.h"
#include "wgmma_store.h"

namespace switch_ops::cuda::wgmma {

template <typename Half, int kSums>
__device__ __forceinline__ void multiply(float (&sum)[kSums], uint64_t x, uint64_t weight,
                                         bool add) {
  if constexpr (Half::kType == WeightType::kBFloat16)
    ptx::wgmma_bf16(sum, x, weight, add);
  else
    ptx::wgmma_f16(sum, x, weight, add);
}

// sum = x @ weight^T over all steps of a tile. A slot is given back when the step after it has been
// begun, so that the tensor cores always have work. Copies write to shared memory as other threads
// do, wgmma reads it as an asynchronous operation does: those who waited for copies put the fence
// in between. (If those who copy did it, they would have to wait for each step's copies.)
template <typename Half, int kRows>
__device__ __forceinline__ void multiply_tile(Ring<kRows>& ring, int steps, int group,
                                              float (&sum)[kRows / 2]) {
  constexpr int kStepBytes = 16 * 2;  // one instruction multiplies 16 columns
  uint64_t* last = nullptr;
  for (int step = 0; step < steps; ++step) {
    ptx::mbarrier_wait(ring.full(), ring.round);
    const unsigned char* x = ring.operands() + group * kOperandBytes / 2;
    const unsigned char* weight = ring.operands() + kOperandBytes;
    ptx::async_proxy_fence();
    ptx::wgmma_fence();
#pragma unroll
    for (int at = 0; at < kRowBytes; at += kStepBytes) {
      multiply<Half>(sum, descriptor(x + at), descriptor(weight + at), step > 0 || at > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    if (step > 0) arrive(last);
    last = ring.empty();
    ring.advance();
  }
  ptx::wgmma_wait<0>();
  ptx::wgmma_settle(sum);
  arrive(last);
}

// Tokens of the tile in this warpgroup: none. The other one's steps pass.
template <int kRows>
__device__ __forceinline__ void pass_tile(Ring<kRows>& ring, int steps) {
  for (int step = 0; step < steps; ++step) {
    ptx::mbarrier_wait(ring.full(), ring.round);
    arrive(ring.empty());
    ring.advance();
  }
}

template <typename Half, Stage kStage, int kRows>
__device__ __forceinline__ void multiply_and_store(const HalfProduct& a, const Schedule& schedule,
                                                   Ring<kRows> ring) {
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const int steps = ceil_div(a.columns, kStepColumns), tiles = schedule.tiles(a);
  for (int number = static_cast<int>(blockIdx.x); number < tiles;
       number += static_cast<int>(gridDim.x)) {
    const Tile tile = schedule.tile(a, number);
    if (tile.tokens <= group * kTileTokens / 2) {
      pass_tile(ring, steps);
      continue;
    }
    float sum[kRows / 2];
    if constexpr (kStage == Stage::kHidden) {
      multiply_tile<Half>(ring, steps, group, sum);
      if (a.activation == Activation::kRelu && !a.is_gated)
        store_relu<Half, kRows>(a, tile, sum);
      else
        store_hidden<Half, kRows>(a, tile, sum);
    } else {
      const OutputRows rows = output_rows(a, tile);
      multiply_tile<Half>(ring, steps, group, sum);
      store_output<kRows>(a, tile, rows, sum);
    }
  }
}

}  // namespace switch_ops::cuda::wgmma

#endif  // SWITCH_CORE_CUDA_WGMMA_MULTIPLY_H_
