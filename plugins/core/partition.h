// How a product is cut into tasks, and how its inputs are prepared.
#ifndef SWITCH_CORE_PARTITION_H_
#define SWITCH_CORE_PARTITION_H_

#include <algorithm>
#include <cstdint>

#include "operators.h"
#include "scratch.h"

namespace switch_ops {

// Tasks are small enough for threads to even out, large enough that starting them costs nothing.
constexpr int64_t kTaskBytes = 32 << 10;       // of weights that each meet few tokens
constexpr int64_t kBusyTaskBytes = 128 << 10;  // the same for many tokens
constexpr int64_t kFewTokens = 4;
constexpr int64_t kTaskProducts = 4 << 20;  // multiplications
constexpr int64_t kMostTasks = 64;
constexpr int64_t kRowMultiple = 16;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of a weight that one task computes for `tokens` tokens.
inline int64_t rows_per_task(const Weight& weight, int64_t tokens) {
  const int64_t bytes = weight.rows * weight.row_bytes();
  const int64_t products = weight.rows * weight.columns * tokens;
  const int64_t least = tokens <= kFewTokens ? kTaskBytes : kBusyTaskBytes;
  const int64_t tasks =
      std::min(kMostTasks, std::max({int64_t{1}, bytes / least, products / kTaskProducts}));
  return ceil_div(ceil_div(weight.rows, tasks), kRowMultiple) * kRowMultiple;
}

// Tokens that one task handles where each costs about `columns` simple steps.
inline int64_t tokens_per_task(int64_t columns) {
  return std::max<int64_t>(1, (16 << 10) / std::max<int64_t>(1, columns));
}

// Run each(first, last) over [0, tokens) in tasks.
template <typename Each>
void over_tokens(const Context& context, int64_t tokens, int64_t columns, const Each& each) {
  const int64_t step = tokens_per_task(columns);
  context.parallel.each(ceil_div(tokens, step), [&](int64_t task) {
    each(task * step, std::min(tokens, (task + 1) * step));
  });
}

// Rows of float32 that may have something else between them: `stride` floats from one to the next.
struct Rows {
  const float* x;
  int64_t tokens, columns, stride;
};

// Rows as weights of `type` want them.
inline Inputs prepare_inputs(const Context& context, WeightType type, const Rows& rows, Slot slot) {
  if (!is_quantised(type)) return {rows.x, rows.stride * static_cast<int64_t>(sizeof(float))};
  const int64_t stride = context.kernels.prepared_stride(type, rows.columns);
  char* prepared = scratch<char>(slot, rows.tokens * stride);
  over_tokens(context, rows.tokens, rows.columns, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      context.kernels.prepare(type, rows.x + t * rows.stride, rows.columns, prepared + t * stride);
    }
  });
  return {prepared, stride};
}

}  // namespace switch_ops

#endif  // SWITCH_CORE_PARTITION_H_
