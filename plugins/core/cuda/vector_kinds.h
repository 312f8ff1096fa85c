// How 16 bytes of a weight's row meet the rows of x: one struct for every kind of weight.
//
// A warp holds 8 rows of the weight; lane = 4 g + c has 16 bytes of row g, its place in them is c.
//
//                c = 0      c = 1      c = 2      c = 3
//   row g = 0    16 bytes | 16 bytes | 16 bytes | 16 bytes     one step; the next one follows
//   ...
//   row g = 7
//
// A kind says how many columns that is, how x is stored to meet it, and sums up over the steps.
#ifndef SWITCH_CORE_CUDA_VECTOR_KINDS_H_
#define SWITCH_CORE_CUDA_VECTOR_KINDS_H_

#include <type_traits>

#include "vectors.h"

namespace switch_ops::cuda {

// x and weight of the same half type, on tensor cores. What a fragment takes for columns 2 c, 2 c +
// 1, 2 c + 8 and 2 c + 9 of a product is four neighbours here, of x and of the weight alike: a sum
// does not ask for an order of its columns. Tokens are the 16 rows of a fragment, rows of the
// weight its 8 columns.
template <typename Half>
struct TensorKind {
  static constexpr int kColumns = 8;             // of one lane in a step
  static constexpr int kInputBytes = 2;          // of one staged value of x
  static constexpr int kBlocksPerProcessor = 3;  // what its registers allow without spilling
  static constexpr bool kQuantised = false, kBlocks = false;
  using Sum = float;

  float sum[4] = {0, 0, 0, 0};

  __device__ static void store4(unsigned char* row, int column, float4 v, float) {
    *reinterpret_cast<uint2*>(row + 2 * column) =
        make_uint2(Half::pack(v.x, v.y), Half::pack(v.z, v.w));
  }
  __device__ void add(uint4 w, float, const unsigned char* x, int stride, int count, int column,
                      bool inside) {
    const int g = static_cast<int>(threadIdx.x) % kWarp / 4;
    const uint4 none = make_uint4(0, 0, 0, 0);
    const unsigned char* at = x + g * stride + 2 * column;
    const uint4 low = inside && g < count ? *reinterpret_cast<const uint4*>(at) : none;
    const uint4 high =
        inside && g + 8 < count ? *reinterpret_cast<const uint4*>(at + 8 * stride) : none;
    const uint32_t first[4] = {low.x, high.x, low.y, high.y}, first_w[2] = {w.x, w.y};
    const uint32_t second[4] = {low.z, high.z, low.w, high.w}, second_w[2] = {w.z, w.w};
    Half::multiply(sum, first, first_w);
    Half::multiply(sum, second, second_w);
  }
  // sums[token * 8 + row of the weight]
  __device__ void store(Sum* sums, int count) const {
    const int g = static_cast<int>(threadIdx.x) % kWarp / 4, c = static_cast<int>(threadIdx.x) % 4;
    for (int i = 0; i < 4; ++i) {
      const int token = g + 8 * (i / 2);
      if (token < count) sums[token * 8 + 2 * c + i % 2] = sum[i];
    }
  }
};

// Sums that every lane has of its own columns, for each token.
template <typename T>
struct LaneSums {
  T sum[kFewTokens];

  __device__ LaneSums() {
#pragma unroll
    for (int i = 0; i < kFewTokens; ++i) sum[i] = 0;
  }
  __device__ void store(T* sums, int count) const {
    const int g = static_cast<int>(threadIdx.x) % kWarp / 4, c = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < kFewTokens; ++i) {
      if (i >= count) break;
      T total = sum[i];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      if (i % 4 == c) sums[i * 8 + g] = total;
    }
  }
};

// Any float type of x and of the weight, in float32.
template <WeightType kType>
struct FloatKind : LaneSums<float> {
  static constexpr int kColumns = kType == WeightType::kFloat32 ? 4 : 8;
  static constexpr int kInputBytes = 4;
  static constexpr int kBlocksPerProcessor = 2;
  static constexpr bool kQuantised = false, kBlocks = false;
  using Sum = float;

  __device__ static void store4(unsigned char* row, int column, float4 v, float) {
    *reinterpret_cast<float4*>(row + 4 * column) = v;
  }
  __device__ static float2 pair(uint32_t two) {
    return kType == WeightType::kBFloat16 ? BFloat16::unpack(two) : Float16::unpack(two);
  }
  __device__ void add(uint4 w, float, const unsigned char* x, int stride, int count, int column,
                      bool inside) {
    if (!inside) return;
    float v[kColumns];
    if constexpr (kType == WeightType::kFloat32) {
      v[0] = __uint_as_float(w.x), v[1] = __uint_as_float(w.y);
      v[2] = __uint_as_float(w.z), v[3] = __uint_as_float(w.w);
    } else {
      const float2 two[4] = {pair(w.x), pair(w.y), pair(w.z), pair(w.w)};
      for (int i = 0; i < 4; ++i) v[2 * i] = two[i].x, v[2 * i + 1] = two[i].y;
    }
#pragma unroll
    for (int i = 0; i < kFewTokens; ++i) {
      if (i >= count) break;
#pragma unroll
      for (int j = 0; j < kColumns; j += 4) {
        const float4 four = *reinterpret_cast<const float4*>(x + i * stride + 4 * (column + j));
        sum[i] = fmaf(v[j], four.x, sum[i]);
        sum[i] = fmaf(v[j + 1], four.y, sum[i]);
        sum[i] = fmaf(v[j + 2], four.z, sum[i]);
        sum[i] = fmaf(v[j + 3], four.w, sum[i]);
      }
    }
  }
};

// int8 (docs/operators.md, "Quantised products"): 4 products an instruction. With one scale a row
// the sum of a row stays an integer; else each 16 or 32 columns, which lie in one block, are
// scaled.
template <bool kInt4, bool kByBlock>
struct IntegerKind : LaneSums<std::conditional_t<kByBlock, float, int32_t>> {
  static constexpr int kColumns = kInt4 ? 32 : 16;
  static constexpr int kInputBytes = 1;
  static constexpr int kBlocksPerProcessor = kInt4 || kByBlock ? 2 : 3;
  static constexpr bool kQuantised = true, kBlocks = kByBlock;
  using Sum = std::conditional_t<kByBlock, float, int32_t>;

  // `factor`: 127 / the largest of the row. Rows that meet int4 are in the order of unpack_int4.
  __device__ static void store4(unsigned char* row, int column, float4 v, float factor) {
    const uint32_t q[4] = {quantised_byte(v.x, factor), quantised_byte(v.y, factor),
                           quantised_byte(v.z, factor), quantised_byte(v.w, factor)};
    if constexpr (!kInt4) {
      *reinterpret_cast<uint32_t*>(row + column) = q[0] | q[1] << 8 | q[2] << 16 | q[3] << 24;
    } else {
      auto* even = reinterpret_cast<uint16_t*>(row + column / 8 * 8 + column % 8 / 2);
      even[0] = static_cast<uint16_t>(q[0] | q[2] << 8);
      even[2] = static_cast<uint16_t>(q[1] | q[3] << 8);
    }
  }
  __device__ static int32_t dot(uint4 w, uint4 x, int32_t sum) {
    return ptx::dot4(w.x, x.x, ptx::dot4(w.y, x.y, ptx::dot4(w.z, x.z, ptx::dot4(w.w, x.w, sum))));
  }
  __device__ void add(uint4 w, float scale, const unsigned char* x, int stride, int count,
                      int column, bool inside) {
    if (!inside) return;
    const uint2 a = unpack_int4(w.x), b = unpack_int4(w.y);
    const uint2 c = unpack_int4(w.z), d = unpack_int4(w.w);
#pragma unroll
    for (int i = 0; i < kFewTokens; ++i) {
      if (i >= count) break;
      const auto* row = reinterpret_cast<const uint4*>(x + i * stride + column);
      int32_t sum = 0;
      if constexpr (kInt4) {
        sum = dot(make_uint4(a.x, a.y, b.x, b.y), row[0], 0);
        sum = dot(make_uint4(c.x, c.y, d.x, d.y), row[1], sum);
      } else {
        sum = dot(w, row[0], 0);
      }
      if constexpr (kByBlock) {
        this->sum[i] = fmaf(scale, __int2float_rn(sum), this->sum[i]);
      } else {
        this->sum[i] += sum;
      }
    }
  }
};

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_VECTOR_KINDS_H_
