// The kernel of multiply_tiles.
#ifndef SWITCH_CORE_CUDA_TILES_KERNEL_H_
#define SWITCH_CORE_CUDA_TILES_KERNEL_H_

#include <type_traits>

#include "launch.h"
#include "tiles_load.h"
#include "tiles_store.h"

namespace switch_ops::cuda::tiles {

// All but the last `pending` groups of copies are there.
template <int kMost = kMostStages - 2>
__device__ __forceinline__ void wait_for_copies(int pending) {
  if constexpr (kMost > 0) {
    if (pending < kMost) return wait_for_copies<kMost - 1>(pending);
  }
  ptx::async_wait<kMost>();
}

// A warp's part of a tile, [kWarpHeight, kWarpWidth], in fragments of 16 x 8.
template <typename Family, typename Shape>
class WarpTile {
 public:
  __device__ __forceinline__ WarpTile()
      : lane_(static_cast<int>(threadIdx.x) % kWarp),
        down_(static_cast<int>(threadIdx.x) / kWarp / kAcross * Shape::kWarpHeight),
        across_(static_cast<int>(threadIdx.x) / kWarp % kAcross * Shape::kWarpWidth),
        x_lane_(Family::x_lane(lane_)),
        weight_lane_(Family::weight_lane(lane_)) {}

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kDown * kFragments * 4; ++i) {
      sums_[i / 4 / kFragments][i / 4 % kFragments][i % 4] = 0;
      if constexpr (Family::kQuantised) parts_[i / 4 / kFragments][i / 4 % kFragments][i % 4] = 0;
    }
  }

  __device__ __forceinline__ void multiply(const TileProduct& p, const unsigned char* stage,
                                           int step) {
    const bool ends = Family::kQuantised && ends_block(p, step);
#pragma unroll
    for (int slice = 0; slice < kStepSlices; ++slice) {
      multiply_slice(stage, slice);
      if constexpr (Family::kQuantised) {
        const int slices = kStepSlices >> p.scales.per_step;  // that share a scale
        if (ends && (slice + 1) % slices == 0) add_parts(stage, slice / slices);
      }
    }
  }

  __device__ __forceinline__ void store(const TileProduct& p, const Tile& tile) const {
    const int across = p.is_gated ? across_ / 2 : across_;
    float unit = 1;
    if constexpr (Family::kQuantised) unit = Family::kUnit;
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
      const TileRows<kFragments> rows{sums_[i], unit, down_ + i * 16 + lane_ / 4,
                                      tile.output + across + lane_ % 4 * 2};
      if (p.is_hidden) {
        store_hidden(p, tile, rows);
      } else {
        store_output(p, tile, rows);
      }
    }
  }

 private:
  using Part = std::conditional_t<Family::kQuantised, int32_t, float>;
  static constexpr int kAcross = Shape::kWidth / Shape::kWarpWidth;  // warps
  static constexpr int kDown = Shape::kWarpHeight / 16;              // fragments
  static constexpr int kFragments = Shape::kWarpWidth / 8;

  __device__ __forceinline__ auto& targets() {
    if constexpr (Family::kQuantised) {
      return parts_;
    } else {
      return sums_;
    }
  }

  __device__ __forceinline__ void multiply_slice(const unsigned char* stage, int slice) {
    const unsigned char* x = stage + down_ * kStepBytes;
    const unsigned char* weight =
        stage + StageLayout<Family, Shape>::kWeight + across_ * Family::kWeightBytes;
    uint32_t a[kDown][4];
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
      Family::load_x(a[i], x + i * 16 * kStepBytes, x_lane_, slice);
    }
#pragma unroll
    for (int n = 0; n < kFragments; n += 2) {
      uint32_t b[2][2];
      Family::load_weight(b, weight + n * 8 * Family::kWeightBytes, weight_lane_, slice);
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
        Family::multiply(targets()[i][n], a[i], b[0]);
        Family::multiply(targets()[i][n + 1], a[i], b[1]);
      }
    }
  }

  // The integers of a block of columns are complete.
  __device__ __forceinline__ void add_parts(const unsigned char* stage, int block) {
    const auto* scales =
        reinterpret_cast<const float*>(stage + StageLayout<Family, Shape>::kScales) +
        block * Shape::kWidth + across_ + lane_ % 4 * 2;
#pragma unroll
    for (int n = 0; n < kFragments; ++n) {
      const float2 scale = *reinterpret_cast<const float2*>(scales + n * 8);
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sums_[i][n][e] += __int2float_rn(parts_[i][n][e]) * (e % 2 == 0 ? scale.x : scale.y);
          parts_[i][n][e] = 0;
        }
      }
    }
  }

  int lane_, down_, across_;  // the first row and column of the warp in the tile
  int x_lane_, weight_lane_;
  float sums_[kDown][kFragments][4];
  Part parts_[Family::kQuantised ? kDown : 1][kFragments][4];  // of the block of columns
};

//   shared memory   stage 0 | stage 1 | ... | starts of experts | sums of warps
//
//   step            0   1   2   3 ...     one row of steps, over the ends of tiles
//   computed        i                     in stage i % stages
//   on their way      i + 1 .. i + stages - 1, of this tile and of the next
template <typename Family, typename Shape>
__global__ void __launch_bounds__(kTileThreads<Shape>, Shape::kBlocks)
    tiles_kernel(const __grid_constant__ TileProduct p) {
  unsigned char* memory = ptx::shared_memory();
  ptx::dependency_wait();
  const Schedule<Shape> schedule(p, reinterpret_cast<int*>(memory + p.stages * p.stage_bytes));
  Loader<Family, Shape> loader(p, schedule, static_cast<int>(blockIdx.x));
  for (int stage = 0; stage < p.stages - 1; ++stage) {
    loader.load(memory + stage * p.stage_bytes);
    ptx::async_commit();
  }
  ptx::dependency_launch();

  WarpTile<Family, Shape> own;
  int stage = 0, free = p.stages - 1;  // `free`: was read in the step before
  const int tiles = schedule.tiles();
  for (int number = static_cast<int>(blockIdx.x); number < tiles;
       number += static_cast<int>(gridDim.x)) {
    own.clear();
    for (int step = 0; step < p.steps; ++step) {
      wait_for_copies(p.stages - 2);
      __syncthreads();  // the copies of all threads are there, and nobody reads `free` any more
      loader.load(memory + free * p.stage_bytes);
      ptx::async_commit();
      own.multiply(p, memory + stage * p.stage_bytes, step);
      free = stage;
      stage = stage + 1 == p.stages ? 0 : stage + 1;
    }
    own.store(p, schedule.tile(number));
  }
}

template <typename Family, typename Shape>
void launch_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product) {
  const Grid grid{dim3(static_cast<unsigned>(plan.blocks)), kTileThreads<Shape>, plan.shared_bytes};
  launch(stream, "multiply_tiles", grid, tiles_kernel<Family, Shape>, product);
}

template <typename Family>
void launch_family(const Stream& stream, const TilePlan& plan, const TileProduct& product) {
  switch (plan.height) {
    case 16: return launch_tiles<Family, TileShape<16>>(stream, plan, product);
    case 64: return launch_tiles<Family, TileShape<64>>(stream, plan, product);
    default: return launch_tiles<Family, TileShape<128>>(stream, plan, product);
  }
}

}  // namespace switch_ops::cuda::tiles

#endif  // SWITCH_CORE_CUDA_TILES_KERNEL_H_
