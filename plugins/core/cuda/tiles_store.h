// The sums of a tile as values of y.
#ifndef SWITCH_CORE_CUDA_TILES_STORE_H_
#define SWITCH_CORE_CUDA_TILES_STORE_H_

#include "activate.h"
#include "numbers.h"
#include "tiles_schedule.h"

namespace switch_ops::cuda::tiles {

// Outputs `output` and `output + 1` of the row `row` of y, as far as there are two.
__device__ __forceinline__ void store_pair(const TileProduct& p, int64_t row, int output,
                                           float2 v) {
  if (output >= p.outputs) return;
  const int64_t at = row * p.outputs + output;
  if (p.outputs % 2 == 1) {
    store_value(p.y, p.y_type, at, v.x);
    if (output + 1 < p.outputs) store_value(p.y, p.y_type, at + 1, v.y);
  } else if (p.y_type == WeightType::kFloat32) {
    *reinterpret_cast<float2*>(static_cast<float*>(p.y) + at) = v;
  } else {
    *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p.y) + at) =
        p.y_type == WeightType::kBFloat16 ? BFloat16::pack(v.x, v.y) : Float16::pack(v.x, v.y);
  }
}

// v + what y has there; y is float32.
__device__ __forceinline__ float2 add_to(const TileProduct& p, int64_t row, int output, float2 v) {
  if (output >= p.outputs) return v;
  const float* y = static_cast<const float*>(p.y) + row * p.outputs + output;
  if (p.outputs % 2 == 0) {
    const float2 old = *reinterpret_cast<const float2*>(y);
    return make_float2(v.x + old.x, v.y + old.y);
  }
  v.x += y[0];
  if (output + 1 < p.outputs) v.y += y[1];
  return v;
}

// This thread's sums [kFragments][4] of 16 tokens, `r` being the first of them that it has values
// of, and `output` its first output.
template <int kFragments>
struct TileRows {
  const float (&sums)[kFragments][4];
  float unit;  // that quantised sums are multiplied with, beside the scale of their row
  int r, output;
};

template <int kFragments>
__device__ __forceinline__ void store_hidden(const TileProduct& p, const Tile& tile,
                                             const TileRows<kFragments>& rows) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = rows.r + half * 8;
    if (r >= tile.count) continue;
    const int place = tile.place + r;
    const float scale = p.x_scale ? rows.unit * p.x_scale[p.tokens[place]] : 1.0f;
#pragma unroll
    for (int n = 0; n < kFragments; n += 2) {
      const float (&low)[4] = rows.sums[n];
      const float (&high)[4] = rows.sums[n + 1];
      const float2 a = make_float2(low[2 * half] * scale, low[2 * half + 1] * scale);
      const float2 b = make_float2(high[2 * half] * scale, high[2 * half + 1] * scale);
      const float2 act_a = make_float2(activate(p.activation, a.x), activate(p.activation, a.y));
      if (p.is_gated) {
        store_pair(p, place, rows.output + n * 4, make_float2(act_a.x * b.x, act_a.y * b.y));
      } else {
        store_pair(p, place, rows.output + n * 8, act_a);
        store_pair(p, place, rows.output + n * 8 + 8,
                   make_float2(activate(p.activation, b.x), activate(p.activation, b.y)));
      }
    }
  }
}

template <int kFragments>
__device__ __forceinline__ void store_output(const TileProduct& p, const Tile& tile,
                                             const TileRows<kFragments>& rows) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = rows.r + half * 8;
    if (r >= tile.count) continue;
    const int token = p.tokens[tile.place + r];
    const float scale = p.x_scale ? rows.unit * p.x_scale[tile.place + r] : 1.0f;
    const float gate = p.gate ? p.gate[token] : 1.0f;
#pragma unroll
    for (int n = 0; n < kFragments; ++n) {
      const int output = rows.output + n * 8;
      float2 v = make_float2(gate * (rows.sums[n][2 * half] * scale),
                             gate * (rows.sums[n][2 * half + 1] * scale));
      if (p.accumulate) v = add_to(p, token, output, v);
      store_pair(p, token, output, v);
    }
  }
}

}  // namespace switch_ops::cuda::tiles

#endif  // SWITCH_CORE_CUDA_TILES_STORE_H_
