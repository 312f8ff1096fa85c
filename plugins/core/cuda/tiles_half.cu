#include "tiles_kernel.h"

namespace switch_ops::cuda::tiles {

void launch_bfloat16_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product) {
  launch_family<HalfTiles<BFloat16>>(stream, plan, product);
}

void launch_float16_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product) {
  launch_family<HalfTiles<Float16>>(stream, plan, product);
}

}  // namespace switch_ops::cuda::tiles
