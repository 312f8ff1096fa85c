// The warpgroup that loads: rows of x and of a weight into the ring, tile after tile.
#ifndef SWITCH_CORE_CUDA_WGMMA_LOAD_H_
#define SWITCH_CORE_CUDA_WGMMA_LOAD_H_

#include "products.h"
#include "wgmma_ring.h"

namespace switch_ops::cuda::wgmma {

// Thread t copies chunk t % 8 of the rows t / 8, t / 8 + 16, ... of every operand.
constexpr int kRowsAtOnce = kGroup / 8;

// What a thread copies for a tile.
template <int kRows>
struct Sources {
  static constexpr int kTokens = kTileTokens / kRowsAtOnce;
  static constexpr int kHalf = kRows / 2 / kRowsAtOnce;

  uint32_t row[kTokens];  // of x
  int rows;               // how many of these there are; others are zeros
  // Of weight, in each half of the tile: the first row, and how many there are (0 or less: none).
  const char* weight[2];
  int weights[2];
};

template <Stage kStage, int kRows>
__device__ __forceinline__ Sources<kRows> sources(const HalfProduct& a, const Tile& tile) {
  const int first = static_cast<int>(threadIdx.x) % kGroup / 8;
  Sources<kRows> s;
  s.rows = ceil_div(tile.tokens - first, kRowsAtOnce);
#pragma unroll
  for (int i = 0; i < s.kTokens; ++i) {
    const int place = tile.place + first + i * kRowsAtOnce;
    const bool gathers = kStage == Stage::kHidden && i < s.rows;
    s.row[i] = static_cast<uint32_t>(gathers ? a.tokens[place] : place);
  }
  const int64_t expert_rows = static_cast<int64_t>(a.outputs) * (a.is_gated ? 2 : 1);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int output = tile.output + first + (a.is_gated ? 0 : half * kRows / 2);
    const int64_t row = tile.expert * expert_rows + (a.is_gated ? half * a.outputs : 0) + output;
    s.weight[half] = a.weight + row * a.columns * 2;
    s.weights[half] = ceil_div(a.outputs - output, kRowsAtOnce);
  }
  return s;
}

// Begin the copies of one step of a tile.
template <int kRows>
__device__ __forceinline__ void copy_step(const HalfProduct& a, const Sources<kRows>& s, int step,
                                          unsigned char* slot) {
  const int thread = static_cast<int>(threadIdx.x) % kGroup;
  const int row = thread / 8, chunk = thread % 8;
  const uint32_t row_bytes = static_cast<uint32_t>(a.columns) * 2;
  const uint32_t at = static_cast<uint32_t>(step * kRowBytes + chunk * 16);
  const bool is_there = at < row_bytes;
  unsigned char* to = slot + row * kRowBytes + (chunk ^ row % 8) * 16;
#pragma unroll
  for (int i = 0; i < s.kTokens; ++i) {
    const char* from = a.x + static_cast<uint64_t>(s.row[i]) * row_bytes + at;
    ptx::async_copy16(to, from, is_there && i < s.rows);
    to += kRowsAtOnce * kRowBytes;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const char* from = s.weight[half] + at;
#pragma unroll
    for (int i = 0; i < s.kHalf; ++i) {
      ptx::async_copy16(to, from, is_there && i < s.weights[half]);
      from += row_bytes * kRowsAtOnce;
      to += kRowsAtOnce * kRowBytes;
    }
  }
}

// Copies run ahead of the products by as many steps as the ring has slots, into the next tile too.
template <Stage kStage, int kRows>
__device__ __forceinline__ void load_tiles(const HalfProduct& a, const Schedule& schedule,
                                           Ring<kRows> ring) {
  const int steps = ceil_div(a.columns, kStepColumns), blocks = static_cast<int>(gridDim.x);
  int number = static_cast<int>(blockIdx.x);
  Tile tile = schedule.tile(a, number);
  Sources<kRows> own = sources<kStage, kRows>(a, tile);
  while (tile.tokens > 0) {
    number += blocks;
    tile = schedule.tile(a, number);
    const Sources<kRows> next = sources<kStage, kRows>(a, tile);  // long before it is needed
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      ptx::mbarrier_wait(ring.empty(), ring.round ^ 1);
      copy_step(a, own, step, ring.operands());
      ptx::mbarrier_arrive_copies(ring.full());
      ring.advance();
    }
    own = next;
  }
  ptx::async_commit();
  ptx::async_wait<0>();  // no copy outlives its thread
}

}  // namespace switch_ops::cuda::wgmma

#endif  // SWITCH_CORE_CUDA_WGMMA_LOAD_H_
