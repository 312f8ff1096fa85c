// The dot products of four rows of w with a few rows of x, for each type of weight.
//
// A policy says how one vector step of a row of w and of x is loaded and added to a sum:
//
//   Sum, Weights, Inputs                 what is kept in registers
//   kStep                                columns of a vector step
//   weights(rows, r, k [, rest])         the step of row r that begins at column k; `rest` columns
//   inputs(x, k [, rest])                the same of a row of x
//   add(weights, inputs, sum)
//   finish(rows, sum, out)               sums to outputs
#ifndef SWITCH_CORE_CPU_TILES_H_
#define SWITCH_CORE_CPU_TILES_H_

#include <cstdint>

#include "rows.h"

namespace {

constexpr int kRows = 4;
// Up to so many tokens the weights are the work, and they are read row after row.
constexpr int kStreamTokens = 4;
constexpr int kMostTokens = 8;

// Where a tile reads: rows of w and of their scales, rows of x.
struct TileRows {
  const char* w[kRows];
  const float* scale[kRows];
  const char* x[kMostTokens];
  const char* next;  // four rows further on, to be asked for; or null
  int64_t turn;      // of `turns` tiles over the same rows of w, which share the asking: memory
  int64_t turns;     // then works all the time instead of holding up the first of them
};

// The sums are plain arrays in plain loops: behind a lambda GCC keeps them in memory.
template <class Policy>
class Tile {
  using Sum = typename Policy::Sum;

 public:
  static constexpr int kTokens = Policy::kTokens;

  explicit Tile(const Weight& weight) : policy_(weight), columns_(weight.columns) {}

  // One row of w after the other.
  template <int T>
  void stream(const TileRows& rows, float (*out)[kRows]) const {
    Sum all[kRows][T];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      Sum sum[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sum[t] = Policy::zero();
      int64_t k = 0;
      for (; k + Policy::kStep <= columns_; k += Policy::kStep) {
        const auto w = policy_.weights(rows, r, k);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) Policy::add(w, policy_.inputs(rows.x[t], k), sum[t]);
      }
      if (const int rest = static_cast<int>(columns_ - k); rest > 0) {
        const auto w = policy_.weights(rows, r, k, rest);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) Policy::add(w, policy_.inputs(rows.x[t], k, rest), sum[t]);
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) all[r][t] = sum[t];
    }
    policy_.finish(rows, all, out);
  }

  // A vector of each of four rows of w, for all tokens.
  template <int T>
  void block(const TileRows& rows, float (*out)[kRows]) const {
    Sum sum[kRows][T];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sum[r][t] = Policy::zero();
    }
    int64_t k = 0;
    int64_t wait = rows.next ? rows.turn : INT64_MAX;
    for (; k + Policy::kStep <= columns_; k += Policy::kStep) {
      if (wait-- == 0) {
        wait = rows.turns - 1;
        const char* next = rows.next + k / Policy::kStep * (kRows * Policy::kStepBytes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) __builtin_prefetch(next + r * Policy::kStepBytes, 0, 2);
      }
      typename Policy::Weights w[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) w[r] = policy_.weights(rows, r, k);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const auto x = policy_.inputs(rows.x[t], k);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) Policy::add(w[r], x, sum[r][t]);
      }
    }
    if (const int rest = static_cast<int>(columns_ - k); rest > 0) {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const auto w = policy_.weights(rows, r, k, rest);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) Policy::add(w, policy_.inputs(rows.x[t], k, rest), sum[r][t]);
      }
    }
    policy_.finish(rows, sum, out);
  }

 private:
  Policy policy_;
  int64_t columns_;
};

template <class S, WeightType W>
class FloatPolicy {
 public:
  using Sum = typename S::F;
  using Weights = typename S::F;
  static constexpr int kStep = S::kLanes;
  static constexpr int kSize = W == WeightType::kFloat32 ? 4 : 2;
  static constexpr int kStepBytes = kStep * kSize;
  static constexpr int kTokens = S::kFloatTokens;

  explicit FloatPolicy(const Weight&) {}

  [[gnu::always_inline]] static Sum zero() { return S::zero(); }
  [[gnu::always_inline]] static Weights weights(const TileRows& rows, int r, int64_t k) {
    const char* p = rows.w[r] + k * kSize;
    if constexpr (W == WeightType::kFloat32) return S::load(reinterpret_cast<const float*>(p));
    if constexpr (W == WeightType::kFloat16) return S::widen_float16(p);
    return S::widen_bfloat16(p);
  }
  [[gnu::always_inline]] static Weights weights(const TileRows& rows, int r, int64_t k, int rest) {
    const char* p = rows.w[r] + k * kSize;
    if constexpr (W == WeightType::kFloat32)
      return S::load(reinterpret_cast<const float*>(p), rest);
    if constexpr (W == WeightType::kFloat16) return S::widen_float16(p, rest);
    return S::widen_bfloat16(p, rest);
  }
  [[gnu::always_inline]] static Sum inputs(const char* x, int64_t k) {
    return S::load(reinterpret_cast<const float*>(x) + k);
  }
  [[gnu::always_inline]] static Sum inputs(const char* x, int64_t k, int rest) {
    return S::load(reinterpret_cast<const float*>(x) + k, rest);
  }
  [[gnu::always_inline]] static void add(Weights w, Sum x, Sum& sum) { sum = S::fma(w, x, sum); }

  template <int T>
  static void finish(const TileRows&, const Sum (&sum)[kRows][T], float (*out)[kRows]) {
    S::template totals<T>(sum, out);
  }
};

inline const RowHeader& header(const char* x) { return *reinterpret_cast<const RowHeader*>(x); }
inline const char* values(const char* x) { return x + sizeof(RowHeader); }

// int8, one scale for each row: whole sums stay in integers.
template <class S>
class Int8Policy {
 public:
  using Sum = typename S::I;
  using Weights = typename S::I;
  static constexpr int kStep = S::kBytes;
  static constexpr int kStepBytes = S::kBytes;
  static constexpr int kTokens = S::kIntTokens;

  explicit Int8Policy(const Weight&) {}

  [[gnu::always_inline]] static Sum zero() { return S::zero_bytes(); }
  [[gnu::always_inline]] static Weights weights(const TileRows& rows, int r, int64_t k) {
    return S::offset(S::load_bytes(rows.w[r] + k));
  }
  [[gnu::always_inline]] static Weights weights(const TileRows& rows, int r, int64_t k, int rest) {
    return S::offset(S::load_bytes(rows.w[r] + k, rest));
  }
  // Prepared rows go on with zeros.
  [[gnu::always_inline]] static Sum inputs(const char* x, int64_t k, int = 0) {
    return S::load_bytes(values(x) + k);
  }
  [[gnu::always_inline]] static void add(Weights w, Sum x, Sum& sum) { sum = S::dot8(sum, w, x); }

  template <int T>
  static void finish(const TileRows& rows, const Sum (&sum)[kRows][T], float (*out)[kRows]) {
    float scale[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) scale[r] = *rows.scale[r];
    int32_t whole[T][kRows];
    S::template totals<T>(sum, whole);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const RowHeader& x = header(rows.x[t]);
      const int32_t offset = S::kOffset * x.sum;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        out[t][r] = static_cast<float>(whole[t][r] - offset) * (x.scale * scale[r]);
      }
    }
  }
};

// A scale for each block of a row: the integers of one vector become floats before they are added.
// Lane l of a step belongs to its block kPerLane * l / block. Blocks are powers of two from 32 on,
// so that each is a part of a step or a number of steps.
template <class S, WeightType W>
class BlockPolicy {
  using I = typename S::I;
  static constexpr bool kInt4 = W == WeightType::kInt4;
  static constexpr int kPerLane = kInt4 ? 8 : 4;

 public:
  using Sum = typename S::F;
  static constexpr int kStep = kInt4 ? 2 * S::kBytes : S::kBytes;
  static constexpr int kStepBytes = S::kBytes;
  static constexpr int kTokens = S::kBlockTokens;

  struct Weights {
    I low, high;  // int8: all of them in `low`
    typename S::F scale;
  };
  struct Inputs {
    I start, even, odd;  // int8: all of them in `even`
  };

  explicit BlockPolicy(const Weight& weight) : blocks_(weight.blocks()) {
    const int64_t block = weight.block ? weight.block : int64_t{1} << 62;
    shift_ = __builtin_ctzll(static_cast<unsigned long long>(block));
    per_step_ = static_cast<int>(block < kStep ? kStep / block : 1);
    int32_t lanes[S::kLanes];
    for (int l = 0; l < S::kLanes; ++l) lanes[l] = static_cast<int32_t>(kPerLane * l / block);
    index_ = S::load_bytes(lanes);
  }

  [[gnu::always_inline]] static Sum zero() { return S::zero(); }
  [[gnu::always_inline]] Weights weights(const TileRows& rows, int r, int64_t k) const {
    return split(S::load_bytes(rows.w[r] + k * S::kBytes / kStep),
                 S::spread(rows.scale[r] + (k >> shift_), per_step_, index_));
  }
  [[gnu::always_inline]] Weights weights(const TileRows& rows, int r, int64_t k, int rest) const {
    const int64_t left = blocks_ - (k >> shift_);
    const int n = static_cast<int>(left < per_step_ ? left : per_step_);
    return split(S::load_bytes(rows.w[r] + k * S::kBytes / kStep, rest * S::kBytes / kStep),
                 S::spread(rows.scale[r] + (k >> shift_), n, index_));
  }
  [[gnu::always_inline]] static Inputs inputs(const char* x, int64_t k, int = 0) {
    if constexpr (kInt4) {
      const auto& group = reinterpret_cast<const Int4Group<S>*>(values(x))[k / kStep];
      return {S::load_bytes(group.correction), S::load_bytes(group.even), S::load_bytes(group.odd)};
    } else {
      const I all = S::load_bytes(values(x) + k);
      return {S::zero_bytes(), all, all};
    }
  }
  [[gnu::always_inline]] static void add(const Weights& w, const Inputs& x, Sum& sum) {
    I dot;
    if constexpr (kInt4) {
      dot = S::dot4(S::dot4(x.start, w.low, x.even), w.high, x.odd);
    } else {
      dot = S::dot_signed(x.start, w.low, x.even);
    }
    sum = S::fma(S::to_float(dot), w.scale, sum);
  }

  template <int T>
  static void finish(const TileRows& rows, const Sum (&sum)[kRows][T], float (*out)[kRows]) {
    S::template totals<T>(sum, out);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const float scale = header(rows.x[t]).scale;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) out[t][r] *= scale;
    }
  }

 private:
  [[gnu::always_inline]] static Weights split(I w, typename S::F scale) {
    if constexpr (kInt4) return {S::low_codes(w), S::high_codes(w), scale};
    return {w, w, scale};
  }

  int64_t blocks_;
  int shift_, per_step_;
  I index_;
};

}  // namespace

#endif  // SWITCH_CORE_CPU_TILES_H_
