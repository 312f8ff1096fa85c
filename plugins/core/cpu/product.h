// y = x @ w^T as dot products along the rows of w, which are read where they lie, never packed.
//
// Few tokens: one row of w after the other, so that memory sees a single stream in order (four
// interleaved rows reach less than half of its speed). Many tokens: tiles, where a vector of w
// meets all tokens of the tile, and the next four rows are asked for in order meanwhile.
//
//              x[t]    [t + 1] ...
//   w[o]        .         .                  a tile: kRows rows of w, up to Tile::kTokens of x
//   w[o + 1]    .         .
//   w[o + 2]    .         .
//   w[o + 3]    .         .
#ifndef SWITCH_CORE_CPU_PRODUCT_H_
#define SWITCH_CORE_CPU_PRODUCT_H_

#include <cstdint>

#include "tiles.h"

namespace {

using switch_ops::Product;

// Prepared rows of x that stay in the second-level cache while w passes.
constexpr int64_t kCachedInputs = 384 << 10;

// Tiles of T rows of x; one with fewer for what is left.
template <class Tile, int T, bool kStream>
inline void run_tile(const Tile& tile, int count, const TileRows& rows, float (*out)[kRows]) {
  if (T == 1 || count == T) {
    if constexpr (kStream) {
      tile.template stream<T>(rows, out);
    } else {
      tile.template block<T>(rows, out);
    }
  } else if constexpr (T > 1) {
    run_tile<Tile, T - 1, kStream>(tile, count, rows, out);
  }
}

inline void store_outputs(const float (&out)[kRows], int valid, bool relu, float* y) {
  if (valid == kRows) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) y[r] = relu && out[r] < 0 ? 0 : out[r];
  } else {
    for (int r = 0; r < valid; ++r) y[r] = relu && out[r] < 0 ? 0 : out[r];
  }
}

// Scales lie far from the weights and are read once per row: too seldom for the hardware to
// foresee, often enough that waiting for each would cost a quarter of a small product's time.
inline void ask_for(const float* scales, int64_t count) {
  const int64_t most = count < 1024 ? count : 1024;
  for (int64_t i = 0; i < most; i += 16) __builtin_prefetch(scales + i);
}

// The rows of w from o on, for the tokens begin <= t < end of the list.
template <class Tile, bool kStream>
inline void product_rows(const Tile& tile, const Product& p, int64_t begin, int64_t end, int64_t o,
                         int valid, TileRows& rows) {
  constexpr int kTokens = kStream ? kStreamTokens : Tile::kTokens;
  for (int64_t t = begin; t < end; t += kTokens) {
    const int count = static_cast<int>(end - t < kTokens ? end - t : kTokens);
    int64_t token[kTokens];
    for (int i = 0; i < count; ++i) {
      token[i] = p.tokens ? p.tokens[t + i] : t + i;
      rows.x[i] = p.x.row(token[i]);
    }
    float out[kTokens][kRows];
    run_tile<Tile, kTokens, kStream>(tile, count, rows, out);
    for (int i = 0; i < count; ++i) {
      store_outputs(out[i], valid, p.relu, p.y + token[i] * p.y_stride + o);
    }
    rows.next = nullptr;  // the first tile has asked for it
  }
}

template <class Tile>
void product_with(const Product& p, int64_t first, int64_t last) {
  const Tile tile(p.weight);
  const int64_t row_bytes = p.weight.row_bytes(), blocks = p.weight.blocks();
  int64_t cached = kCachedInputs / p.x.stride / Tile::kTokens * Tile::kTokens;
  if (cached < Tile::kTokens) cached = Tile::kTokens;
  const char* const w = p.weight.row(0);
  if (p.weight.scale) ask_for(p.weight.row_scale(first), (last - first) * blocks);
  for (int64_t begin = 0; begin < p.count; begin += cached) {
    const int64_t end = begin + cached < p.count ? begin + cached : p.count;
    for (int64_t o = first; o < last; o += kRows) {
      const int valid = static_cast<int>(last - o < kRows ? last - o : kRows);
      TileRows rows;
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = o + (r < valid ? r : valid - 1);
        rows.w[r] = w + row * row_bytes;
        rows.scale[r] = p.weight.scale ? p.weight.scale + row * blocks : nullptr;
      }
      rows.next = o + 2 * kRows <= last ? w + (o + kRows) * row_bytes : nullptr;
      if (p.count <= kStreamTokens) {
        product_rows<Tile, true>(tile, p, begin, end, o, valid, rows);
      } else {
        product_rows<Tile, false>(tile, p, begin, end, o, valid, rows);
      }
    }
  }
}

template <class S>
void product(const Product& p, int64_t first, int64_t last) {
  switch (p.weight.type) {
    case WeightType::kFloat32:
      return product_with<Tile<FloatPolicy<S, WeightType::kFloat32>>>(p, first, last);
    case WeightType::kFloat16:
      return product_with<Tile<FloatPolicy<S, WeightType::kFloat16>>>(p, first, last);
    case WeightType::kBFloat16:
      return product_with<Tile<FloatPolicy<S, WeightType::kBFloat16>>>(p, first, last);
    case WeightType::kInt8:
      if (p.weight.block == 0) return product_with<Tile<Int8Policy<S>>>(p, first, last);
      return product_with<Tile<BlockPolicy<S, WeightType::kInt8>>>(p, first, last);
    case WeightType::kInt4:
      return product_with<Tile<BlockPolicy<S, WeightType::kInt4>>>(p, first, last);
  }
}

}  // namespace

#endif  // SWITCH_CORE_CPU_PRODUCT_H_
