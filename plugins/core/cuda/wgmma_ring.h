// A ring of operands in shared memory: one warpgroup fills its slots, two multiply what is there.
#ifndef SWITCH_CORE_CUDA_WGMMA_RING_H_
#define SWITCH_CORE_CUDA_WGMMA_RING_H_

#include <switch_wgmma.h>

#include "wgmma_tiles.h"

namespace switch_ops::cuda::wgmma {

// A step multiplies 64 columns: 128 bytes of every row, which is what one swizzle covers.
//
//   slot   128 rows of x, then kRows rows of the weight
//   row    8 chunks of 16 bytes; chunk c of row r is at the place c ^ (r % 8)
constexpr int kStepColumns = 64;
constexpr int kRowBytes = 2 * kStepColumns;
constexpr int kOperandBytes = kTileTokens * kRowBytes;  // of x in a slot
constexpr int kRingBytes = 200 * 1024;
constexpr int kMostSlots = 6;

struct Barriers {
  uint64_t full[kMostSlots], empty[kMostSlots];
};

template <int kRows>
struct Ring {
  static constexpr int kSlotBytes = kOperandBytes + kRows * kRowBytes;
  static constexpr int kSlots = kRingBytes / kSlotBytes;
  static_assert(kSlots >= 4 && kSlots <= kMostSlots && kSlotBytes % 1024 == 0);

  unsigned char* memory;
  Barriers* barriers;
  int slot = 0;
  uint32_t round = 0;  // parity of how often the ring was gone round

  __device__ __forceinline__ unsigned char* operands() const { return memory + slot * kSlotBytes; }
  __device__ __forceinline__ uint64_t* full() const { return &barriers->full[slot]; }
  __device__ __forceinline__ uint64_t* empty() const { return &barriers->empty[slot]; }
  __device__ __forceinline__ void advance() {
    if (++slot < kSlots) return;
    slot = 0;
    round ^= 1;
  }
};

__device__ __forceinline__ void init(Barriers* barriers) {
  for (int i = 0; i < kMostSlots; ++i) {
    ptx::mbarrier_init(&barriers->full[i], kGroup);               // threads that load
    ptx::mbarrier_init(&barriers->empty[i], 2 * kGroup / kWarp);  // warps that multiply
  }
}

// A warp's arrival, for what all its threads did.
__device__ __forceinline__ void arrive(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % kWarp == 0) ptx::mbarrier_arrive(barrier);
}

// PTX ISA, "Matrix Descriptor Format": a K-major matrix with 128-byte swizzle, 1024 bytes between
// 8 rows and the next 8. A start within the first row picks columns.
__device__ __forceinline__ uint64_t descriptor(const unsigned char* start) {
  constexpr uint64_t kSwizzle128 = 1, kStride = 1024 >> 4, kUnused = 1;
  return kSwizzle128 << 62 | kStride << 32 | kUnused << 16 |
         (ptx::shared_address(start) & 0x3ffffu) >> 4;
}

}  // namespace switch_ops::cuda::wgmma

#endif  // SWITCH_CORE_CUDA_WGMMA_RING_H_
