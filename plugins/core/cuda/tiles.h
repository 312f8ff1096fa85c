// Grouped products on tensor cores by mma.sync: what the kernels get, and which one is started how.
//
//              weight rows (outputs)
//            ┌───────┬───────┬───────┐   a tile: kHeight tokens of one expert x kWidth rows of its
//   expert 0 │ tile  │ tile  │  ...  │   weight, computed by one block, in steps of 128 bytes of x
//   tokens   ├───────┼───────┼───────┤
//            └───────┴───────┴───────┘   last tiles are partly empty: their missing tokens, rows
//   expert 1 no tokens, no tiles         and columns are zeros that nothing is read for
//            ┌───────┬───────┬───────┐
//   expert 2 │ tile  │ tile  │  ...  │   tiles are numbered through; block b computes b,
//            └───────┴───────┴───────┘   b + blocks, ... as one uninterrupted row of steps
#ifndef SWITCH_CORE_CUDA_TILES_H_
#define SWITCH_CORE_CUDA_TILES_H_

#include "device.h"
#include "products.h"

namespace switch_ops::cuda::tiles {

constexpr int kStepBytes = 128;  // of a row of x in a step
constexpr int kStepSlices = 4;   // of 32 bytes: one mma deep
constexpr int kMostStages = 6;

// 16 and 64 tokens stream weights, 128 tokens compute. kBlocks: on a processor, by registers.
template <int kTokens>
struct TileShape;
template <>
struct TileShape<16> {
  static constexpr int kHeight = 16, kWidth = 64, kWarpHeight = 16, kWarpWidth = 16, kBlocks = 4;
};
template <>
struct TileShape<64> {
  static constexpr int kHeight = 64, kWidth = 64, kWarpHeight = 32, kWarpWidth = 32, kBlocks = 3;
};
template <>
struct TileShape<128> {
  static constexpr int kHeight = 128, kWidth = 128, kWarpHeight = 64, kWarpWidth = 32, kBlocks = 1;
};
template <typename Shape>
constexpr int kTileThreads =
    Shape::kHeight / Shape::kWarpHeight * (Shape::kWidth / Shape::kWarpWidth) * 32;

// The scales of a weight's step: 1 << per_step of them where blocks are shorter than a step, else
// one for 1 << steps steps.
struct TileScales {
  const float* data;
  int blocks;  // of a row
  int per_step, steps;
};

// GroupedProduct as the kernels want it.
struct TileProduct {
  const char* x;
  const float* x_scale;
  const char* weight;
  TileScales scales;
  const int32_t* tokens;  // Groups
  const int32_t* first;
  const float* gate;
  void* y;
  WeightType y_type;
  Activation activation;
  bool is_hidden, is_gated, accumulate;
  int experts, rows, outputs;    // outputs: rows, or half of them where gated
  int x_bytes, weight_bytes;     // of a row
  int steps, row_tiles, stages;  // row_tiles: to cover the outputs
  int stage_bytes;
};

// How a product is started: with 2 to kMostStages stages. Throws std::invalid_argument where the
// product is none for these kernels, or for the device.
struct TilePlan {
  int height;  // TileShape's
  int stages, stage_bytes;
  size_t shared_bytes;
  int blocks;
};
TilePlan plan_tiles(const Device& device, const GroupedProduct& a);

// multiply_tiles as if the current device were `device`.
void multiply(const Device& device, const Stream& stream, const GroupedProduct& a);

// One per family, to compile them side by side.
void launch_bfloat16_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product);
void launch_float16_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product);
void launch_int8_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product);
void launch_int4_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product);

}  // namespace switch_ops::cuda::tiles

#endif  // SWITCH_CORE_CUDA_TILES_H_
