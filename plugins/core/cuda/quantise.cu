// Rows as int8, each with its own scale (docs/operators.md, "Quantised products"): a block a row.
#include "launch.h"
#include "products.h"
#include "reduce.h"
#include "vectors.h"

namespace switch_ops::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) quantise(const QuantisedRows a) {
  auto* memory = reinterpret_cast<float*>(ptx::shared_memory());
  const int64_t row = blockIdx.x, start = row * a.columns;
  ptx::dependency_wait();
  ptx::dependency_launch();
  float own = 1e-30f;
  for (int64_t i = 4 * threadIdx.x; i < a.columns; i += 4 * kThreads) {
    own = fmaxf(own, largest(load4(a.x, a.x_type, start + i)));
  }
  const float amax = block_max(own, memory), factor = 127.0f / amax;
  for (int64_t i = 4 * threadIdx.x; i < a.columns; i += 4 * kThreads) {
    const float4 v = load4(a.x, a.x_type, start + i);
    *reinterpret_cast<uint32_t*>(a.y + start + i) =
        quantised_byte(v.x, factor) | quantised_byte(v.y, factor) << 8 |
        quantised_byte(v.z, factor) << 16 | quantised_byte(v.w, factor) << 24;
  }
  if (threadIdx.x == 0) a.scale[row] = amax / 127.0f;
}

}  // namespace

void quantise_rows(const Stream& stream, const QuantisedRows& a) {
  if (a.rows == 0) return;
  launch(stream, "quantisation of rows", {dim3(static_cast<unsigned>(a.rows)), kThreads, 32 * 4},
         quantise, a);
}

}  // namespace switch_ops::cuda
