// y = x @ weight^T, and what is only a look-up in such a weight.
#include <cstring>
#include <stdexcept>
#include <string>

#include "operators.h"
#include "partition.h"

namespace switch_ops {

void embedding(const Context& context, const int64_t* ids, int64_t tokens, const Weight& table,
               float* y) {
  for (int64_t t = 0; t < tokens; ++t) {
    if (ids[t] >= 0 && ids[t] < table.rows) continue;
    throw std::invalid_argument("SwitchEmbedding: id " + std::to_string(ids[t]) + " of token " +
                                std::to_string(t) + ", expected 0 to " +
                                std::to_string(table.rows - 1));
  }
  over_tokens(context, tokens, table.columns, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      context.kernels.decode_row(table, ids[t], y + t * table.columns);
    }
  });
}

void linear(const Context& context, const float* x, int64_t tokens, const Weight& weight,
            float* y) {
  if (tokens == 0) return;
  Product product;
  product.weight = weight;
  product.x = prepare_inputs(context, weight.type, {x, tokens, weight.columns, weight.columns},
                             Slot::kPrepared);
  product.count = tokens;
  product.y = y;
  product.y_stride = weight.rows;
  const int64_t step = rows_per_task(weight, tokens);
  context.parallel.each(ceil_div(weight.rows, step), [&](int64_t task) {
    context.kernels.product(product, task * step, std::min(weight.rows, (task + 1) * step));
  });
}

void key_value(const Context& context, const KeyValue& a) {
  const int64_t width = a.weight.rows / 2, size = width / a.heads, tokens = a.batch * a.tokens;
  float* both = scratch<float>(Slot::kHidden, tokens * 2 * width);
  linear(context, a.x, tokens, a.weight, both);
  //   both [B, S, 2, H, K] ──► key [B, H, S, K], value [B, H, S, K]
  over_tokens(context, tokens, 2 * width, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const int64_t b = t / a.tokens, s = t % a.tokens;
      for (int64_t h = 0; h < a.heads; ++h) {
        const float* from = both + t * 2 * width + h * size;
        const int64_t to = ((b * a.heads + h) * a.tokens + s) * size;
        std::memcpy(a.key + to, from, static_cast<size_t>(size) * sizeof(float));
        std::memcpy(a.value + to, from + width, static_cast<size_t>(size) * sizeof(float));
      }
    }
  });
}

}  // namespace switch_ops
