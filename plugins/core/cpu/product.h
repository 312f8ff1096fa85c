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

// Rows of w that pass before the next tokens: their outputs fill whole cache lines, which matters
// where the rows of y are a power of two apart and push each other out. The next as many are asked
// for meanwhile.
constexpr int kBandRows = 16;

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

inline TileRows rows_of(const Weight& weight, int64_t o, int valid) {
  const int64_t row_bytes = weight.row_bytes(), blocks = weight.blocks();
  TileRows rows;
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = o + (r < valid ? r : valid - 1);
    rows.w[r] = weight.row(0) + row * row_bytes;
    rows.scale[r] = weight.scale ? weight.scale + row * blocks : nullptr;
  }
  const int64_t ahead = o + kBandRows;
  rows.next = ahead + kRows <= weight.rows ? weight.row(0) + ahead * row_bytes : nullptr;
  return rows;
}

// The rows first <= o < last of w, at most kBandRows, for the tokens begin <= t < end of the list.
template <class Tile, bool kStream>
inline void product_band(const Tile& tile, const Product& p, int64_t begin, int64_t end,
                         int64_t first, int64_t last) {
  constexpr int kTokens = kStream ? kStreamTokens : Tile::kTokens;
  TileRows bands[kBandRows / kRows];
  for (int64_t o = first; o < last; o += kRows) {
    bands[(o - first) / kRows] =
        rows_of(p.weight, o, static_cast<int>(last - o < kRows ? last - o : kRows));
  }
  const int64_t turns = (end - begin + kTokens - 1) / kTokens;
  for (int64_t t = begin, turn = 0; t < end; t += kTokens, ++turn) {
    const int count = static_cast<int>(end - t < kTokens ? end - t : kTokens);
    int64_t token[kTokens];
    for (int i = 0; i < count; ++i) token[i] = p.tokens ? p.tokens[t + i] : t + i;
    for (int64_t o = first; o < last; o += kRows) {
      TileRows& rows = bands[(o - first) / kRows];
      rows.turn = turn;
      rows.turns = turns;
      for (int i = 0; i < count; ++i) rows.x[i] = p.x.row(token[i]);
      float out[kTokens][kRows];
      run_tile<Tile, kTokens, kStream>(tile, count, rows, out);
      const int valid = static_cast<int>(last - o < kRows ? last - o : kRows);
      for (int i = 0; i < count; ++i) {
        store_outputs(out[i], valid, p.relu, p.y + token[i] * p.y_stride + o);
      }
    }
  }
}

template <class Tile>
void product_with(const Product& p, int64_t first, int64_t last) {
  const Tile tile(p.weight);
  int64_t cached = kCachedInputs / p.x.stride / Tile::kTokens * Tile::kTokens;
  if (cached < Tile::kTokens) cached = Tile::kTokens;
  if (p.weight.scale) ask_for(p.weight.row_scale(first), (last - first) * p.weight.blocks());
  for (int64_t begin = 0; begin < p.count; begin += cached) {
    const int64_t end = begin + cached < p.count ? begin + cached : p.count;
    for (int64_t o = first; o < last; o += kBandRows) {
      const int64_t to = o + kBandRows < last ? o + kBandRows : last;
      if (p.count <= kStreamTokens) {
        product_band<Tile, true>(tile, p, begin, end, o, to);
      } else {
        product_band<Tile, false>(tile, p, begin, end, o, to);
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
