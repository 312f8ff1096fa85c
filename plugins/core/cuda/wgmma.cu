#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "device.h"
#include "launch.h"
#include "wgmma_load.h"
#include "wgmma_multiply.h"

namespace switch_ops::cuda {
namespace wgmma {
namespace {

// Registers of a thread, of a block that starts with as many as fit.
constexpr int kLoads = 104, kMultiplies = 200, kAtFirst = 65536 / kThreads / 8 * 8;
static_assert(kLoads + 2 * kMultiplies <= 3 * kAtFirst);

// Shared memory: the ring, its barriers, an int for every warp, Schedule::before.
constexpr int kMostExperts = 2048;
constexpr size_t kTotalsAt = kRingBytes + sizeof(Barriers);
constexpr size_t kBeforeAt = kTotalsAt + kThreads / kWarp * sizeof(int32_t);

// run(schedule, ring) with the tiles that choose_rows gives.
template <typename Run>
__device__ __forceinline__ void with_rows(const HalfProduct& a, unsigned char* shared,
                                          const Run& run) {
  auto* const barriers = reinterpret_cast<Barriers*>(shared + kRingBytes);
  const auto* const before = reinterpret_cast<const int32_t*>(shared + kBeforeAt);
  const int rows = choose_rows(a, before), outputs = tile_outputs(a.is_gated, rows);
  const Schedule schedule{before, ceil_div(a.outputs, outputs), outputs};
  if (rows == 256) {
    run(schedule, Ring<256>{shared, barriers});
  } else if (rows == 192) {
    run(schedule, Ring<192>{shared, barriers});
  } else {
    run(schedule, Ring<128>{shared, barriers});
  }
}

//   warps 0 .. 3, 4 .. 7                     warps 8 .. 11
//   tokens 0 .. 63, 64 .. 127 of a tile      rows of x and weight
//
//   full ──► wgmma ──► empty                 empty ──► cp.async ──► full
//              └──► sums ──► y                 while the others write y, slots fill
template <typename Half, Stage kStage>
__global__ void __launch_bounds__(kThreads, 1) grouped_product(const HalfProduct a) {
  unsigned char* const shared = ptx::shared_memory();
  if (threadIdx.x == 0) init(reinterpret_cast<Barriers*>(shared + kRingBytes));
  ptx::dependency_wait();
  count_tiles(a, reinterpret_cast<int32_t*>(shared + kBeforeAt),
              reinterpret_cast<int32_t*>(shared + kTotalsAt));
  ptx::dependency_launch();
  if (threadIdx.x >= 2 * kGroup) {
    ptx::keep_registers<kLoads>();
    with_rows(a, shared,
              [&](const Schedule& schedule, auto ring) { load_tiles<kStage>(a, schedule, ring); });
  } else {
    ptx::take_registers<kMultiplies>();
    with_rows(a, shared, [&](const Schedule& schedule, auto ring) {
      multiply_and_store<Half, kStage>(a, schedule, ring);
    });
  }
}

std::string show(int64_t value) { return std::to_string(value); }

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("multiply_wgmma: " + what);
}

void check_arguments(const GroupedProduct& a) {
  const WeightType type = a.weight.type;
  const bool is_hidden = a.stage == Stage::kHidden;
  require(type == WeightType::kBFloat16 || type == WeightType::kFloat16,
          "weight has type " + show(static_cast<int>(type)) + ", expected float16 or bfloat16");
  require(a.x_type == type, "x has type " + show(static_cast<int>(a.x_type)) +
                                ", expected the weight's, " + show(static_cast<int>(type)));
  const WeightType y_type = is_hidden ? type : WeightType::kFloat32;
  require(a.y_type == y_type, "y has type " + show(static_cast<int>(a.y_type)) + ", expected " +
                                  show(static_cast<int>(y_type)));
  const Weight& w = a.weight;
  const int64_t most = std::numeric_limits<int32_t>::max() / 4;
  require(w.columns > 0 && w.columns <= most && w.columns % 8 == 0,
          "a row has " + show(w.columns) + " columns, expected 8 or a multiple");
  const bool is_gated = is_hidden && a.is_gated;
  require(w.rows > 0 && w.rows <= most && w.rows % (is_gated ? 16 : 8) == 0,
          "weight has " + show(w.rows) + " rows, expected " + (is_gated ? "16" : "8") +
              " or a multiple");
  require(w.count > 0 && w.count <= kMostExperts,
          show(w.count) + " experts, expected 1 to " + show(kMostExperts));
  require(a.tokens >= 0 && a.tokens <= most,
          show(a.tokens) + " tokens, expected 0 to " + show(most));
  const int64_t tiles = (a.tokens / kTileTokens + w.count) * (w.rows / 64 + 1);
  require(tiles <= most, show(tiles) + " tiles, expected at most " + show(most));
}

// At most as many blocks as there are tiles of the smallest kind.
Grid grid_for(const GroupedProduct& a) {
  const int64_t experts = a.weight.count;
  const int64_t token_tiles = std::min(a.tokens, a.tokens / kTileTokens + experts);
  const int64_t blocks =
      std::min<int64_t>(current_device().processors, token_tiles * (a.weight.rows / 64 + 1));
  return Grid{dim3(static_cast<unsigned>(blocks)), kThreads,
              kBeforeAt + (2 * static_cast<size_t>(experts) + 1) * sizeof(int32_t)};
}

template <typename Half>
void run(const Stream& stream, const GroupedProduct& a) {
  const bool is_hidden = a.stage == Stage::kHidden;
  HalfProduct p{};
  p.x = static_cast<const char*>(a.x);
  p.weight = static_cast<const char*>(a.weight.data);
  p.tokens = a.groups.tokens;
  p.first = a.groups.first;
  p.y = a.y;
  p.experts = static_cast<int>(a.weight.count);
  p.columns = static_cast<int>(a.weight.columns);
  p.is_gated = is_hidden && a.is_gated;
  p.outputs = static_cast<int>(a.weight.rows) / (p.is_gated ? 2 : 1);
  if (is_hidden) {
    p.activation = a.activation;
    launch(stream, "multiply_wgmma, hidden", grid_for(a), grouped_product<Half, Stage::kHidden>, p);
  } else {
    p.gate = a.gate;
    p.accumulate = a.accumulate;
    launch(stream, "multiply_wgmma, output", grid_for(a), grouped_product<Half, Stage::kOutput>, p);
  }
}

}  // namespace
}  // namespace wgmma

bool has_wgmma() { return current_device().major == 9 && current_device().minor == 0; }

void multiply_wgmma(const Stream& stream, const GroupedProduct& a) {
  wgmma::check_arguments(a);
  if (a.tokens == 0) return;
  if (a.weight.type == WeightType::kBFloat16) {
    wgmma::run<BFloat16>(stream, a);
  } else {
    wgmma::run<Float16>(stream, a);
  }
}

}  // namespace switch_ops::cuda
