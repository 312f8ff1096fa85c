// multiply_tiles on the host: checks, the choice of tiles, dispatch.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "tiles.h"

namespace switch_ops::cuda {
namespace tiles {
namespace {

constexpr int kStreamed = 3;        // stages that keep the memory busy
constexpr size_t kReserved = 1024;  // bytes of shared memory that each block costs beside its own
constexpr int64_t kMostQuantised = 1 << 17;  // columns: 127 * 127 (127 * 8 * 16) each, in an int32
constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 4;

std::string show(int64_t value) { return std::to_string(value); }
std::string show(WeightType type) {
  const char* const names[] = {"float32", "float16", "bfloat16", "int8", "int4"};
  return names[static_cast<int>(type)];
}

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("multiply_tiles: " + what);
}

void require_array(const void* array, uintptr_t alignment, const std::string& name) {
  require(array != nullptr, name + " is null, expected an array");
  require(reinterpret_cast<uintptr_t>(array) % alignment == 0,
          name + " is at a wrong address, expected a multiple of " +
              show(static_cast<int64_t>(alignment)) + " bytes");
}

bool is_gated(const GroupedProduct& a) { return a.is_gated && a.stage == Stage::kHidden; }
int64_t outputs_of(const GroupedProduct& a) { return a.weight.rows / (is_gated(a) ? 2 : 1); }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int log2_of(int64_t power) {
  int log2 = 0;
  while (power >> log2 > 1) ++log2;
  return log2;
}

void check_types(const GroupedProduct& a) {
  const WeightType type = a.weight.type;
  require(type != WeightType::kFloat32, "weight is float32, expected a half type, int8 or int4");
  const WeightType x_type = is_quantised(type) ? WeightType::kInt8 : type;
  require(a.x_type == x_type, "x is " + show(a.x_type) + ", expected " + show(x_type) + " for " +
                                  show(type) + " weights");
  require(!is_quantised(a.y_type), "y is " + show(a.y_type) + ", expected a float type");
  require(a.stage == Stage::kHidden || a.y_type == WeightType::kFloat32,
          "y is " + show(a.y_type) + ", expected float32 for outputs");
}

void check_sizes(const GroupedProduct& a) {
  const Weight& w = a.weight;
  require(w.columns > 0 && w.columns <= kMost && w.row_bytes() % 16 == 0 &&
              (w.type != WeightType::kInt4 || w.columns % 2 == 0),
          "a row of weight has " + show(w.columns) + " columns of " + show(w.type) +
              ", expected a multiple of 16 bytes");
  require(!is_quantised(w.type) || w.columns <= kMostQuantised,
          "a row of weight has " + show(w.columns) + " columns, expected at most " +
              show(kMostQuantised) + " of " + show(w.type));
  require(w.block == 0 || (w.block >= 32 && (w.block & (w.block - 1)) == 0),
          "block is " + show(w.block) + ", expected 0 or a power of two from 32 on");
  require(w.rows >= 0 && w.rows <= kMost && (!is_gated(a) || w.rows % 2 == 0),
          "weight has " + show(w.rows) + " rows, expected 0 or more, and an even number if gated");
  require(w.count > 0 && w.count <= kMost, show(w.count) + " experts, expected 1 or more");
  require(a.tokens >= 0 && a.tokens <= kMost, show(a.tokens) + " tokens, expected 0 or more");
}

void check_arrays(const GroupedProduct& a) {
  require_array(a.x, 16, "x");
  require_array(a.weight.data, 16, "weight");
  require_array(a.y, 16, "y");
  require_array(a.groups.tokens, 4, "groups.tokens");
  require_array(a.groups.first, 4, "groups.first");
  if (!is_quantised(a.weight.type)) return;
  require_array(a.x_scale, 4, "x_scale");
  require_array(a.weight.scale, 4, "the scale of weight");
}

template <typename Shape>
int64_t row_tiles(const GroupedProduct& a) {
  return ceil_div(outputs_of(a), is_gated(a) ? Shape::kWidth / 2 : Shape::kWidth);
}

// At most: routes are not known here.
template <typename Shape>
int64_t most_tiles(const GroupedProduct& a) {
  const int64_t token_tiles = a.tokens / Shape::kHeight + std::min(a.weight.count, a.tokens);
  return std::min(token_tiles, a.tokens) * row_tiles<Shape>(a);
}

// Tiles of this shape are well filled, and enough for the processors (half of them where the tiles
// are small enough for several on one).
template <typename Shape>
bool suits(const Device& device, const GroupedProduct& a, int64_t least_average) {
  const int64_t experts = std::min(a.weight.count, a.tokens);
  const int64_t filled = std::max(experts, a.tokens / Shape::kHeight) * row_tiles<Shape>(a);
  return a.tokens > least_average * a.weight.count &&
         filled * (Shape::kBlocks > 1 ? 2 : 1) >= device.processors;
}

// As many blocks on a processor as its registers have room for, if each of them keeps the memory
// busy then; as many stages as there is room for.
template <typename Shape>
TilePlan plan(const Device& device, const GroupedProduct& a, int scales_of_step) {
  TilePlan plan{};
  plan.height = Shape::kHeight;
  const int weight_bytes = a.weight.type == WeightType::kInt4 ? kStepBytes / 2 : kStepBytes;
  plan.stage_bytes = Shape::kHeight * kStepBytes +
                     Shape::kWidth * (weight_bytes + scales_of_step * int{sizeof(float)});
  const size_t fixed = (static_cast<size_t>(a.weight.count) + 1 + 32) * sizeof(int32_t);
  const auto all = static_cast<size_t>(device.shared_bytes) + kReserved;
  int blocks = Shape::kBlocks;
  for (; blocks >= 1; --blocks) {
    const size_t most = all / static_cast<size_t>(blocks) - kReserved;
    const size_t room = most > fixed ? most - fixed : 0;
    plan.stages = static_cast<int>(
        std::min<size_t>(room / static_cast<size_t>(plan.stage_bytes), kMostStages));
    if (plan.stages >= kStreamed || blocks == 1) break;
  }
  require(plan.stages >= 2, show(a.weight.count) + " experts, expected fewer: no room for their " +
                                "tiles in " + show(device.shared_bytes) +
                                " bytes of shared memory");
  plan.shared_bytes = static_cast<size_t>(plan.stages * plan.stage_bytes) + fixed;
  const int64_t most = most_tiles<Shape>(a);
  require(most <= kMost, show(most) + " tiles, expected at most " + show(kMost));
  plan.blocks = static_cast<int>(std::min<int64_t>(most, int64_t{device.processors} * blocks));
  return plan;
}

TileScales scales_of(const Weight& w) {
  constexpr int64_t kColumns = kStepBytes;  // of int8 in a step
  TileScales scales{w.scale, static_cast<int>(w.blocks()), 0,
                    31};  // a whole row: never before its end
  if (w.block == 0) return scales;
  scales.per_step = w.block < kColumns ? log2_of(kColumns / w.block) : 0;
  scales.steps = w.block > kColumns ? log2_of(w.block / kColumns) : 0;
  scales.steps = std::min(scales.steps, 31);
  return scales;
}

TileProduct product_of(const GroupedProduct& a, const TilePlan& plan) {
  TileProduct p{};
  p.x = static_cast<const char*>(a.x);
  p.x_scale = is_quantised(a.weight.type) ? a.x_scale : nullptr;
  p.weight = static_cast<const char*>(a.weight.data);
  p.scales = scales_of(a.weight);
  p.tokens = a.groups.tokens;
  p.first = a.groups.first;
  p.gate = a.gate;
  p.y = a.y;
  p.y_type = a.y_type;
  p.activation = a.activation;
  p.is_hidden = a.stage == Stage::kHidden;
  p.is_gated = is_gated(a);
  p.accumulate = a.accumulate;
  p.experts = static_cast<int>(a.weight.count);
  p.rows = static_cast<int>(a.weight.rows);
  p.outputs = static_cast<int>(outputs_of(a));
  p.x_bytes = static_cast<int>(a.weight.columns * (is_quantised(a.weight.type) ? 1 : 2));
  p.weight_bytes = static_cast<int>(a.weight.row_bytes());
  p.steps = static_cast<int>(ceil_div(p.x_bytes, kStepBytes));
  p.row_tiles = static_cast<int>(plan.height == 128 ? row_tiles<TileShape<128>>(a)
                                                    : row_tiles<TileShape<64>>(a));
  p.stages = plan.stages;
  p.stage_bytes = plan.stage_bytes;
  return p;
}

}  // namespace

TilePlan plan_tiles(const Device& device, const GroupedProduct& a) {
  require(device.major >= 8, "the device has compute capability " + show(device.major) + "." +
                                 show(device.minor) + ", expected 8.0 or later");
  check_types(a);
  check_sizes(a);
  const int scales = is_quantised(a.weight.type) ? 1 << scales_of(a.weight).per_step : 0;
  if (suits<TileShape<128>>(device, a, 64)) return plan<TileShape<128>>(device, a, scales);
  if (suits<TileShape<64>>(device, a, 12)) return plan<TileShape<64>>(device, a, scales);
  return plan<TileShape<16>>(device, a, scales);
}

void multiply(const Device& device, const Stream& stream, const GroupedProduct& a) {
  const TilePlan plan = plan_tiles(device, a);
  if (a.tokens == 0 || a.weight.rows == 0) return;
  check_arrays(a);
  const TileProduct product = product_of(a, plan);
  switch (a.weight.type) {
    case WeightType::kFloat32: return;  // refused above
    case WeightType::kFloat16: return launch_float16_tiles(stream, plan, product);
    case WeightType::kBFloat16: return launch_bfloat16_tiles(stream, plan, product);
    case WeightType::kInt8: return launch_int8_tiles(stream, plan, product);
    case WeightType::kInt4: return launch_int4_tiles(stream, plan, product);
  }
}

}  // namespace tiles

void multiply_tiles(const Stream& stream, const GroupedProduct& a) {
  tiles::multiply(current_device(), stream, a);
}

}  // namespace switch_ops::cuda
