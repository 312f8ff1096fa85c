// What happens to the sums of a tile: activation and hidden values, or gate and output.
#ifndef SWITCH_CORE_CUDA_WGMMA_STORE_H_
#define SWITCH_CORE_CUDA_WGMMA_STORE_H_

#include "activate.h"
#include "numbers.h"
#include "wgmma_tiles.h"

namespace switch_ops::cuda::wgmma {

// A thread's sums, w = warp, g = lane / 4, c = lane % 4:
//
//   sum[4 j + 2 i], sum[4 j + 2 i + 1]   token 16 w + 8 i + g, columns 8 j + 2 c and the next
__device__ __forceinline__ int token_of_thread(int i) {
  const int thread = static_cast<int>(threadIdx.x);
  return thread / kWarp * 16 + 8 * i + thread % kWarp / 4;
}

// Word j of lane c becomes word c of lane j, among four lanes.
__device__ __forceinline__ void transpose(uint32_t (&word)[4]) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    const bool is_high = threadIdx.x & static_cast<unsigned>(bit);
#pragma unroll
    for (int low = 0; low < 4; ++low) {
      if (low & bit) continue;
      uint32_t& high = word[low + bit];
      const uint32_t other = __shfl_xor_sync(kAllLanes, is_high ? word[low] : high, bit);
      word[low] = is_high ? other : word[low];
      high = is_high ? high : other;
    }
  }
}

// 32 columns of a thread's token `i`, two values in a word: four lanes exchange them, so that each
// writes 8 columns in a row.
__device__ __forceinline__ void store_words(const HalfProduct& a, const Tile& tile, int i,
                                            int column, uint32_t (&word)[4]) {
  transpose(word);
  const int token = token_of_thread(i);
  const int output = tile.output + column + 8 * (static_cast<int>(threadIdx.x) % 4);
  if (token < tile.tokens && output < a.outputs) {
    uint16_t* y = static_cast<uint16_t*>(a.y) + (tile.place + token) * int64_t{a.outputs} + output;
    *reinterpret_cast<uint4*>(y) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

template <typename Half, int kRows>
__device__ __forceinline__ void store_relu(const HalfProduct& a, const Tile& tile,
                                           const float (&sum)[kRows / 2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int column = 0; column < kRows; column += 32) {
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int at = (column / 8 + j) * 4 + 2 * i;
        word[j] = Half::pack(fmaxf(sum[at], 0), fmaxf(sum[at + 1], 0));
      }
      store_words(a, tile, i, column, word);
    }
  }
}

// kCount values; the switch is outside, so that there is one copy of it.
template <int kCount>
__device__ __forceinline__ void activate_all(Activation kind, float (&h)[kCount]) {
  const auto all = [&](auto activation) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) h[i] = activation(h[i]);
  };
  switch (kind) {
    case Activation::kRelu: return all([](float x) { return activate(Activation::kRelu, x); });
    case Activation::kGelu: return all([](float x) { return activate(Activation::kGelu, x); });
    case Activation::kGeluTanh:
      return all([](float x) { return activate(Activation::kGeluTanh, x); });
    case Activation::kSilu: return all([](float x) { return activate(Activation::kSilu, x); });
  }
}

// Any activation, gated or not. Unrolled, this is too much code and too many registers, so the
// first 32 columns are always those to do, and the others (and the factors) move up.
template <typename Half, int kRows>
__device__ __forceinline__ void store_hidden(const HalfProduct& a, const Tile& tile,
                                             float (&sum)[kRows / 2]) {
  constexpr int kAtOnce = 32 / 2;
  const int columns = tile_outputs(a.is_gated, kRows);
#pragma unroll 1
  for (int column = 0; column < columns; column += 32) {
    float h[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) h[i] = sum[i];
    activate_all(a.activation, h);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) h[i] *= a.is_gated ? sum[kRows / 4 + i] : 1.0f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) word[j] = Half::pack(h[4 * j + 2 * i], h[4 * j + 2 * i + 1]);
      store_words(a, tile, i, column, word);
    }
#pragma unroll
    for (int i = 0; i < kRows / 2 - kAtOnce; ++i) sum[i] = sum[i + kAtOnce];
  }
}

// Where a thread's two rows of y are, and their factors.
struct OutputRows {
  int token[2];  // -1: none
  float gate[2];
};
__device__ __forceinline__ OutputRows output_rows(const HalfProduct& a, const Tile& tile) {
  OutputRows rows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int in_tile = token_of_thread(i);
    rows.token[i] = in_tile < tile.tokens ? a.tokens[tile.place + in_tile] : -1;
    rows.gate[i] = a.gate && rows.token[i] >= 0 ? a.gate[rows.token[i]] : 1.0f;
  }
  return rows;
}

template <int kRows>
__device__ __forceinline__ void store_output(const HalfProduct& a, const Tile& tile,
                                             const OutputRows& rows,
                                             const float (&sum)[kRows / 2]) {
  constexpr int kAtOnce = 8;  // columns / 8 whose old values are read together
  const int c = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (rows.token[i] < 0) continue;
    const float gate = rows.gate[i];
    float* y = static_cast<float*>(a.y) + rows.token[i] * int64_t{a.outputs} + tile.output + 2 * c;
#pragma unroll
    for (int first = 0; first < kRows / 8; first += kAtOnce) {
      float2 old[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int column = 8 * (first + j);
        const bool reads = a.accumulate && tile.output + column < a.outputs;
        old[j] = reads ? *reinterpret_cast<float2*>(y + column) : make_float2(0, 0);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int column = 8 * (first + j), at = 4 * (first + j) + 2 * i;
        if (tile.output + column < a.outputs) {
          *reinterpret_cast<float2*>(y + column) =
              make_float2(old[j].x + gate * sum[at], old[j].y + gate * sum[at + 1]);
        }
      }
    }
  }
}

}  // namespace switch_ops::cuda::wgmma

#endif  // SWITCH_CORE_CUDA_WGMMA_STORE_H_
