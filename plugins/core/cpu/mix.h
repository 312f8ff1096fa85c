// y = p @ v, rows of v read in order: attention's weighted sums, and its scores from transposed
// keys.
#ifndef SWITCH_CORE_CPU_MIX_H_
#define SWITCH_CORE_CPU_MIX_H_

#include <cstdint>

#include "../kernels.h"

namespace {

using switch_ops::Mix;

// T rows of y, V vectors of columns from `column` on; the last vector may have `rest` lanes only.
template <class S, int T, int V>
inline void mix_tile(const Mix& m, int64_t row, int64_t column, int rest) {
  constexpr int L = S::kLanes;
  const bool partial = rest < L;
  typename S::F sum[T][V];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) {
      const float* y = m.y + (row + t) * m.y_stride + column + i * L;
      sum[t][i] = !m.accumulate ? S::zero() : V == 1 && partial ? S::load(y, rest) : S::load(y);
    }
  }
  const float* v = m.v + column;
  const float* p = m.p + row * m.p_stride;
  for (int64_t j = 0; j < m.inner; ++j, v += m.v_stride) {
    typename S::F b[V];
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) {
      b[i] = V == 1 && partial ? S::load(v + i * L, rest) : S::load(v + i * L);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const typename S::F a = S::set(p[t * m.p_stride + j]);
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) sum[t][i] = S::fma(a, b[i], sum[t][i]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) {
      float* y = m.y + (row + t) * m.y_stride + column + i * L;
      if (V == 1 && partial) {
        S::store(y, sum[t][i], rest);
      } else {
        S::store(y, sum[t][i]);
      }
    }
  }
}

template <class S, int T>
inline void mix_rows(const Mix& m, int64_t row) {
  constexpr int L = S::kLanes, V = S::kMixVectors;
  int64_t column = 0;
  for (; column + V * L <= m.columns; column += V * L) mix_tile<S, T, V>(m, row, column, L);
  for (; column < m.columns; column += L) {
    const int64_t left = m.columns - column;
    mix_tile<S, T, 1>(m, row, column, static_cast<int>(left < L ? left : L));
  }
}

template <class S, int T>
inline void mix_rest(const Mix& m, int64_t row, int64_t count) {
  if constexpr (T > 0) {
    if (count == T) {
      mix_rows<S, T>(m, row);
    } else {
      mix_rest<S, T - 1>(m, row, count);
    }
  }
}

template <class S>
void mix(const Mix& m) {
  int64_t row = 0;
  for (; row + S::kMixRows <= m.rows; row += S::kMixRows) mix_rows<S, S::kMixRows>(m, row);
  mix_rest<S, S::kMixRows - 1>(m, row, m.rows - row);
}

}  // namespace

#endif  // SWITCH_CORE_CPU_MIX_H_
