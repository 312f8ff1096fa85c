// Products for few tokens: a block streams 8 rows of a weight at a time, once, past at most 16
// tokens. What such a kernel is told, and the rows of x that a block keeps in shared memory.
#ifndef SWITCH_CORE_CUDA_VECTORS_H_
#define SWITCH_CORE_CUDA_VECTORS_H_

#include "numbers.h"
#include "products.h"
#include "reduce.h"

namespace switch_ops::cuda {

constexpr int kFewTokens = 16;

// y[t] = gate[t] * act(n[t] @ weight[expert[t]]^T), n = x or its norm.
struct VectorProduct {
  const void* x;  // [tokens, weight.columns]
  WeightType x_type;
  const float* norm = nullptr;  // [weight.columns]: n is the RMS norm of x, of `normed_type`
  WeightType normed_type = WeightType::kFloat32;
  float epsilon = 0;
  int64_t tokens = 0;
  Weight weight;

  // Who meets which matrix: all of them the first one, or by `expert`, for at most kFewTokens; or
  // any number by `groups`, where rows of x, of y or of both may be in sorted order.
  const int32_t* expert = nullptr;
  Groups groups{};
  bool x_is_sorted = false, y_is_sorted = false;
  // Routes were written before the kernel that comes before this one.
  bool routes_are_ready = false;

  void* y = nullptr;
  WeightType y_type = WeightType::kFloat32;
  bool accumulate = false;
  bool has_activation = false;
  Activation activation = Activation::kRelu;
  bool is_gated = false;
  const float* gate = nullptr;  // by token
  // With `expert`: what dropped tokens get; null: their rows are left alone.
  const void* dropped_x = nullptr;
  WeightType dropped_type = WeightType::kFloat32;
  Dropped dropped = Dropped::kZero;

  __host__ __device__ int64_t outputs() const { return weight.rows / (is_gated ? 2 : 1); }
  __host__ __device__ WeightType row_type() const { return norm ? normed_type : x_type; }
};

void multiply_vectors(const Stream& stream, const VectorProduct& a);

// Four values of a row from column `column` on, a multiple of 4.
__device__ __forceinline__ float4 load4(const void* x, WeightType type, int64_t index) {
  if (type == WeightType::kFloat32) {
    return *reinterpret_cast<const float4*>(static_cast<const float*>(x) + index);
  }
  const uint2 two = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(x) + index);
  const bool is_bfloat = type == WeightType::kBFloat16;
  const float2 low = is_bfloat ? BFloat16::unpack(two.x) : Float16::unpack(two.x);
  const float2 high = is_bfloat ? BFloat16::unpack(two.y) : Float16::unpack(two.y);
  return make_float4(low.x, low.y, high.x, high.y);
}

// One row of x, normed where the product wants that.
struct Row {
  const VectorProduct& a;
  int64_t start;
  float factor;  // 1 / sqrt(mean of squares + epsilon)

  __device__ __forceinline__ float4 at(int column) const {
    float4 v = load4(a.x, a.x_type, start + column);
    if (a.norm) {
      const float4 w = *reinterpret_cast<const float4*>(a.norm + column);
      v = make_float4(
          round_to(a.normed_type, v.x * factor * w.x), round_to(a.normed_type, v.y * factor * w.y),
          round_to(a.normed_type, v.z * factor * w.z), round_to(a.normed_type, v.w * factor * w.w));
    }
    return v;
  }
};

// The warps of a block divided among the rows of x: as many warps share a row as there are to
// spare.
//
//   2 rows, 8 warps    row 0: warps 0-3    row 1: warps 4-7
//   9 rows, 8 warps    row 0: warp 0 ...   row 8: warp 0
struct Shares {
  int warps_per_row, first_row, row_step, thread, threads;

  __device__ explicit Shares(int rows) {
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    int rows_at_once = 1;
    while (rows_at_once < rows && rows_at_once < warps) rows_at_once *= 2;
    warps_per_row = warps / rows_at_once;
    first_row = warp / warps_per_row;
    row_step = rows_at_once;
    thread = static_cast<int>(threadIdx.x) % (warps_per_row * kWarp);
    threads = warps_per_row * kWarp;
  }
};

// For every row of the block: `combine` over all columns of `part(row)`, into result[row], in one
// order. `memory`: kFewTokens * 8 floats. Ends with a barrier.
template <typename Part, typename Warp, typename Combine>
__device__ void reduce_rows(const Shares& shares, int rows, float* memory, float* result,
                            const Part& part, const Warp& of_warp, const Combine& combine) {
  for (int r = shares.first_row; r < rows; r += shares.row_step) {
    const float own = of_warp(part(r));
    if (threadIdx.x % kWarp == 0) memory[r * 8 + shares.thread / kWarp] = own;
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < rows) {
    const float* of_row = memory + threadIdx.x * 8;
    float total = of_row[0];
    for (int i = 1; i < shares.warps_per_row; ++i) total = combine(total, of_row[i]);
    result[threadIdx.x] = total;
  }
  __syncthreads();
}

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_VECTORS_H_
