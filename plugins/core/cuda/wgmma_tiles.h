// The tiles of a grouped product by wgmma, and which block computes which of them.
#ifndef SWITCH_CORE_CUDA_WGMMA_TILES_H_
#define SWITCH_CORE_CUDA_WGMMA_TILES_H_

#include <cuda_runtime.h>

#include "../kernels.h"
#include "reduce.h"

namespace switch_ops::cuda::wgmma {

constexpr int kTileTokens = 128;
constexpr int kGroup = 128;           // threads of a warpgroup
constexpr int kThreads = 3 * kGroup;  // two multiply, the last one loads

// A GroupedProduct of half values as its kernel sees it.
struct HalfProduct {
  const char* x;
  const char* weight;
  const int32_t* tokens;
  const int32_t* first;
  void* y;
  const float* gate;
  int experts, columns;
  int outputs;  // columns of y: rows of an expert's weight, or half of them where gated
  Activation activation;
  bool is_gated, accumulate;
};

// `kRows` rows of a weight make kRows columns of y, or half as many where gated: then those of the
// factors come second.
__host__ __device__ constexpr int tile_outputs(bool is_gated, int rows) {
  return is_gated ? rows / 2 : rows;
}
__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Tiles of more than 64 tokens.
__device__ __forceinline__ int whole_tiles(int count) {
  return (count + kTileTokens / 2 - 1) / kTileTokens;
}

struct Tile {
  int expert;
  int place;   // of its first token in the sorted order
  int tokens;  // up to kTileTokens; 0: no tile
  int output;  // its first column of y
};

// Runs of token tiles, in the order in which blocks take them. Tiles of at most 64 tokens, half the
// work, come last: so blocks that have one tile more than others have a quick one more.
//
//   run e             other tiles of expert e                number of a tile =
//   run experts + e   its last tile, where that is a half      token tile * row tiles + row tile
struct Schedule {
  const int32_t* before;  // [2 experts + 1] token tiles of earlier runs; in shared memory
  int row_tiles, outputs;

  __device__ __forceinline__ int tiles(const HalfProduct& a) const {
    return before[2 * a.experts] * row_tiles;
  }
  __device__ __forceinline__ Tile tile(const HalfProduct& a, int number) const {
    if (number >= tiles(a)) return Tile{0, 0, 0, 0};
    const int token_tile = number / row_tiles;
    int run = 0, end = 2 * a.experts;  // the last run with before[run] <= token_tile
    while (end - run > 1) {
      const int middle = (run + end) / 2;
      if (before[middle] <= token_tile)
        run = middle;
      else
        end = middle;
    }
    const int expert = run % a.experts;
    const int start = a.first[expert], count = a.first[expert + 1] - start;
    const int skipped =
        (run < a.experts ? token_tile - before[run] : whole_tiles(count)) * kTileTokens;
    return Tile{expert, start + skipped, min(kTileTokens, count - skipped),
                (number - token_tile * row_tiles) * outputs};
  }
};

__device__ __forceinline__ int tiles_of_run(const HalfProduct& a, int run) {
  const int expert = run % a.experts;
  const int count = a.first[expert + 1] - a.first[expert];
  const int whole = whole_tiles(count);
  return run < a.experts ? whole : count > whole * kTileTokens;
}

// Fill Schedule::before; every thread takes as many runs, one after another. `totals`: an int of
// shared memory for every warp.
__device__ __forceinline__ void count_tiles(const HalfProduct& a, int32_t* before,
                                            int32_t* totals) {
  const int thread = static_cast<int>(threadIdx.x);
  const int runs = 2 * a.experts, share = ceil_div(runs, kThreads);
  const int begin = min(thread * share, runs), end = min(begin + share, runs);
  int own = 0;
  for (int run = begin; run < end; ++run) own += tiles_of_run(a, run);
  int total = block_sum_before(own, totals);
  for (int run = begin; run < end; ++run) {
    before[run] = total;
    total += tiles_of_run(a, run);
  }
  if (thread == kThreads - 1) before[runs] = total;
  __syncthreads();
}

// The rows of weight in a tile, 256, 192 or 128, that let the blocks finish first: as many tiles in
// turn as the busiest one has, each as long as its rows and a share for its tokens.
__device__ __forceinline__ int choose_rows(const HalfProduct& a, const int32_t* before) {
  int best = 0, least = 0;
  for (int rows = 256; rows >= 128; rows -= 64) {
    const int tiles = before[2 * a.experts] * ceil_div(a.outputs, tile_outputs(a.is_gated, rows));
    const int time = ceil_div(tiles, static_cast<int>(gridDim.x)) * (rows + 64);
    if (best == 0 || time < least) {
      best = rows;
      least = time;
    }
  }
  return best;
}

}  // namespace switch_ops::cuda::wgmma

#endif  // SWITCH_CORE_CUDA_WGMMA_TILES_H_
