// The row of steps of a block's tiles on its way into shared memory.
//
//   stage   x        [kHeight, 128 bytes]
//           weight   [kWidth, Family::kWeightBytes]
//           scales   [1 << per_step, kWidth] floats    quantised only
//
// Thread t of a pass copies 16 bytes: the chunk t % chunks of row t / chunks.
#ifndef SWITCH_CORE_CUDA_TILES_LOAD_H_
#define SWITCH_CORE_CUDA_TILES_LOAD_H_

#include "tiles_family.h"
#include "tiles_schedule.h"

namespace switch_ops::cuda::tiles {

template <typename Family, typename Shape>
struct StageLayout {
  static constexpr int kWeight = Shape::kHeight * kStepBytes;
  static constexpr int kScales = kWeight + Shape::kWidth * Family::kWeightBytes;
};

// Whether the sums of a step end with it.
__device__ __forceinline__ bool ends_block(const TileProduct& p, int step) {
  const unsigned next = static_cast<unsigned>(step) + 1;
  return next % (1u << p.scales.steps) == 0 || step + 1 == p.steps;
}

template <typename Family, typename Shape>
class Loader {
 public:
  __device__ __forceinline__ Loader(const TileProduct& p, const Schedule<Shape>& schedule, int tile)
      : p_(p), schedule_(schedule), next_(tile), tiles_(schedule.tiles()) {}

  // Begin the copies of the next step to `stage`; nothing where there is none left.
  __device__ __forceinline__ void load(unsigned char* stage) {
    if (next_ >= tiles_) return;
    if (step_ == 0) enter();
    load_x(stage);
    load_weight(stage + StageLayout<Family, Shape>::kWeight);
    if constexpr (Family::kQuantised) {
      if (ends_block(p_, step_)) load_scales(stage + StageLayout<Family, Shape>::kScales);
    }
    if (++step_ == p_.steps) {
      step_ = 0;
      next_ += static_cast<int>(gridDim.x);
    }
  }

 private:
  static constexpr int kThreads = kTileThreads<Shape>;
  static constexpr int kXChunks = kStepBytes / 16;
  static constexpr int kXRows = kThreads / kXChunks;  // of a pass
  static constexpr int kXPasses = Shape::kHeight / kXRows;
  static constexpr int kWeightChunks = Family::kWeightBytes / 16;
  static constexpr int kWeightRows = kThreads / kWeightChunks;
  static constexpr int kWeightPasses = Shape::kWidth / kWeightRows;
  static_assert(kXRows % 8 == 0 && kXPasses > 0, "passes have the same keys");
  static_assert(kWeightRows % 16 == 0 && kWeightPasses > 0, "and both halves of gated rows");

  __device__ __forceinline__ static int thread() { return static_cast<int>(threadIdx.x); }

  __device__ __forceinline__ void enter() {
    tile_ = schedule_.tile(next_);
#pragma unroll
    for (int pass = 0; pass < kXPasses; ++pass) {
      const int r = pass * kXRows + thread() / kXChunks;
      const int place = tile_.place + r;
      x_row_[pass] = r < tile_.count ? (p_.is_hidden ? p_.tokens[place] : place) : -1;
    }
    const int r = thread() / kWeightChunks;
    const int64_t row = static_cast<int64_t>(tile_.expert) * p_.rows + tile_.row_of(p_, r);
    weight_ = p_.weight + row * p_.weight_bytes;
    weight_left_ = p_.outputs - tile_.output_of(p_, r);
  }

  __device__ __forceinline__ void load_x(unsigned char* to) const {
    const int row = thread() / kXChunks, chunk = thread() % kXChunks;
    const int at = step_ * kStepBytes + chunk * 16;
#pragma unroll
    for (int pass = 0; pass < kXPasses; ++pass) {
      const char* from = p_.x + static_cast<int64_t>(x_row_[pass]) * p_.x_bytes + at;
      ptx::async_copy16(to + Family::x_place(row, chunk) + pass * kXRows * kStepBytes, from,
                        x_row_[pass] >= 0 && at < p_.x_bytes);
    }
  }

  __device__ __forceinline__ void load_weight(unsigned char* to) const {
    const int row = thread() / kWeightChunks, chunk = thread() % kWeightChunks;
    const int at = step_ * Family::kWeightBytes + chunk * 16;
    const int rows = p_.is_gated ? kWeightRows / 2 : kWeightRows;  // from pass to pass
#pragma unroll
    for (int pass = 0; pass < kWeightPasses; ++pass) {
      const char* from = weight_ + static_cast<int64_t>(pass * rows) * p_.weight_bytes + at;
      ptx::async_copy16(
          to + Family::weight_place(row, chunk) + pass * kWeightRows * Family::kWeightBytes, from,
          pass * rows < weight_left_ && at < p_.weight_bytes);
    }
  }

  __device__ __forceinline__ void load_scales(unsigned char* to) const {
    const TileScales& scales = p_.scales;
    const int first = (step_ << scales.per_step) >> scales.steps;
    for (int i = thread(); i < Shape::kWidth << scales.per_step; i += kThreads) {
      const int r = i >> scales.per_step, within = i - (r << scales.per_step);
      const int64_t row = static_cast<int64_t>(tile_.expert) * p_.rows + tile_.row_of(p_, r);
      ptx::async_copy4(to + (within * Shape::kWidth + r) * 4,
                       scales.data + row * scales.blocks + first + within,
                       tile_.output_of(p_, r) < p_.outputs && first + within < scales.blocks);
    }
  }

  const TileProduct& p_;
  const Schedule<Shape>& schedule_;
  int next_, tiles_;  // the tile of the next step
  int step_ = 0;
  Tile tile_;
  int x_row_[kXPasses];  // -1: none
  const char* weight_;
  int weight_left_;  // outputs from this thread's first row on
};

}  // namespace switch_ops::cuda::tiles

#endif  // SWITCH_CORE_CUDA_TILES_LOAD_H_
