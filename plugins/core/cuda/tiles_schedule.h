// Which tile is which: the routes are known on the device alone.
#ifndef SWITCH_CORE_CUDA_TILES_SCHEDULE_H_
#define SWITCH_CORE_CUDA_TILES_SCHEDULE_H_

#include <cuda_runtime.h>

#include "reduce.h"
#include "tiles.h"

namespace switch_ops::cuda::tiles {

struct Tile {
  int expert;
  int place, count;  // the first of its places, and how many it has
  int output;        // the first of its outputs

  // Row r of the tile's weights. Where gated, 8 rows of one half of the weight and the 8 that they
  // are multiplied with take turns, so that one thread has the sums of both.
  __device__ __forceinline__ int output_of(const TileProduct& p, int r) const {
    return output + (p.is_gated ? r / 16 * 8 + r % 8 : r);
  }
  __device__ __forceinline__ int row_of(const TileProduct& p, int r) const {
    return output_of(p, r) + (p.is_gated && r % 16 >= 8 ? p.outputs : 0);
  }
};

// Tiles of neighbouring numbers share weights, then tokens: what they share stays in the L2 cache.
//
//   token tiles of an expert, in groups of kGroup:       row tiles
//                                                  0   4   8   12 ..
//                                                  1   5   9   13
//                                                  2   6   10  14
//                                                  3   7   11  15       then the next group
template <typename Shape>
class Schedule {
 public:
  static constexpr int kGroup = 8;

  // `memory`: experts + 1 + 32 words of shared memory. All threads of the block.
  __device__ __forceinline__ Schedule(const TileProduct& p, int* memory) : p_(p), starts_(memory) {
    constexpr int kThreads = kTileThreads<Shape>;
    int* sums = memory + p.experts + 1;
    const int thread = static_cast<int>(threadIdx.x);
    const int each = (p.experts + kThreads - 1) / kThreads;
    const int begin = min(thread * each, p.experts), end = min(begin + each, p.experts);
    int own = 0;
    for (int e = begin; e < end; ++e) own += tiles_of(e);
    int start = block_sum_before(own, sums);
    for (int e = begin; e < end; ++e) {
      starts_[e] = start;
      start += tiles_of(e);
    }
    if (thread == kThreads - 1) starts_[p.experts] = start;
    __syncthreads();
  }

  __device__ __forceinline__ int tiles() const { return starts_[p_.experts] * p_.row_tiles; }

  __device__ __forceinline__ Tile tile(int number) const {
    const int e = expert_of(number / p_.row_tiles);
    const int local = number - starts_[e] * p_.row_tiles;
    const int group = local / (kGroup * p_.row_tiles);
    const int height = min(starts_[e + 1] - starts_[e] - group * kGroup, kGroup);
    const int in_group = local - group * kGroup * p_.row_tiles;
    const int row_tile = in_group / height;
    const int token_tile = group * kGroup + in_group - row_tile * height;
    Tile tile;
    tile.expert = e;
    tile.place = p_.first[e] + token_tile * Shape::kHeight;
    tile.count = min(p_.first[e + 1] - tile.place, Shape::kHeight);
    tile.output = row_tile * (p_.is_gated ? Shape::kWidth / 2 : Shape::kWidth);
    return tile;
  }

 private:
  __device__ __forceinline__ int tiles_of(int e) const {
    return (p_.first[e + 1] - p_.first[e] + Shape::kHeight - 1) / Shape::kHeight;
  }

  // The one that has the token tile, starts[e] <= token_tile < starts[e + 1].
  __device__ __forceinline__ int expert_of(int token_tile) const {
    int low = 0, high = p_.experts;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (starts_[middle] <= token_tile) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }

  const TileProduct& p_;
  int* starts_;  // token tiles of the experts before e  [experts + 1]
};

}  // namespace switch_ops::cuda::tiles

#endif  // SWITCH_CORE_CUDA_TILES_SCHEDULE_H_
