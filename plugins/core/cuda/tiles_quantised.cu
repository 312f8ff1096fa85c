#include "tiles_kernel.h"

namespace switch_ops::cuda::tiles {

void launch_int8_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product) {
  launch_family<Int8Tiles>(stream, plan, product);
}

void launch_int4_tiles(const Stream& stream, const TilePlan& plan, const TileProduct& product) {
  launch_family<Int4Tiles>(stream, plan, product);
}

}  // namespace switch_ops::cuda::tiles
