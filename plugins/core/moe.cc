// y[t] = gate[t] * (act(x[t] @ wi[e]^T) @ wo[e]^T), e = expert[t].
//
//   expert ──► sort ──► tokens of each expert that has any
//                            │
//   x ──► prepare ──► @ wi[e]^T ──► act, prepare ──► @ wo[e]^T ──► * gate ──► y
//
// The tokens of an expert are computed together, so that its weights are read once; the tasks of
// a product are parts of the rows of one expert.
#include <cmath>
#include <stdexcept>
#include <utility>

#include "operators.h"
#include "partition.h"

namespace switch_ops {
namespace {

// Tokens sorted by expert: those of group g are tokens[first[g]] .. tokens[first[g + 1]].
struct Groups {
  int32_t* tokens;
  int64_t* expert;
  int64_t* first;
  int64_t count = 0;
};

void check_experts(const Moe& a) {
  for (int64_t t = 0; a.expert && t < a.tokens; ++t) {
    if (a.expert[t] >= -1 && a.expert[t] < a.wi.count) continue;
    throw std::invalid_argument("SwitchMoE: expert " + std::to_string(a.expert[t]) + " of token " +
                                std::to_string(t) + ", expected -1 to " +
                                std::to_string(a.wi.count - 1));
  }
}

// A counting sort; token order is kept within an expert.
Groups sort_by_expert(const Moe& a) {
  const int64_t experts = a.wi.count;
  int64_t* memory = scratch<int64_t>(Slot::kRoutes, 3 * experts + 2 + a.tokens);
  int64_t* place = memory;
  Groups groups{reinterpret_cast<int32_t*>(memory + 3 * experts + 2), memory + experts,
                memory + 2 * experts};
  const auto of = [&](int64_t t) { return a.expert ? a.expert[t] : 0; };
  std::fill(place, place + experts, 0);
  for (int64_t t = 0; t < a.tokens; ++t) {
    if (of(t) >= 0) ++place[of(t)];
  }
  int64_t total = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (place[e] == 0) continue;
    groups.expert[groups.count] = e;
    groups.first[groups.count++] = total;
    total += std::exchange(place[e], total);
  }
  groups.first[groups.count] = total;
  for (int64_t t = 0; t < a.tokens; ++t) {
    if (of(t) >= 0) groups.tokens[place[of(t)]++] = static_cast<int32_t>(t);
  }
  return groups;
}

// One product per group, the tasks of all of them in one run.
void grouped_product(const Context& context, const Weight& stack, const Groups& groups,
                     Product product) {
  const int64_t kept = groups.first[groups.count];
  const int64_t average = ceil_div(kept, groups.count);
  int64_t step = rows_per_task(stack, average);
  // Many groups are tasks enough.
  const int64_t per_group = std::max<int64_t>(1, ceil_div(4 * kMostTasks, groups.count));
  step = std::max(step, ceil_div(ceil_div(stack.rows, per_group), kRowMultiple) * kRowMultiple);
  const int64_t parts = ceil_div(stack.rows, step);
  context.parallel.each(groups.count * parts, [&](int64_t task) {
    const int64_t g = task / parts, part = task % parts;
    Product own = product;
    own.weight = stack.slice(groups.expert[g]);
    own.tokens = groups.tokens + groups.first[g];
    own.count = groups.first[g + 1] - groups.first[g];
    context.kernels.product(own, part * step, std::min(stack.rows, (part + 1) * step));
  });
}

// Gates and dropped tokens. Dropped is a select: 0 even where the product would not be finite.
void finish(const Context& context, const Moe& a) {
  if (!a.expert && !a.gate) return;
  const int64_t columns = a.wi.columns;
  over_tokens(context, a.tokens, columns, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      float* y = a.y + t * columns;
      const float gate = a.gate ? a.gate[t] : 1.0f;
      if (!a.expert || a.expert[t] >= 0) {
        for (int64_t i = 0; i < columns; ++i) y[i] *= gate;
      } else if (a.dropped == Dropped::kZero) {
        std::fill(y, y + columns, 0.0f);
      } else {
        for (int64_t i = 0; i < columns; ++i) y[i] = a.x[t * columns + i] * gate;
      }
    }
  });
}

}  // namespace

Activation parse_activation(const std::string& name) {
  if (name == "relu") return Activation::kRelu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  throw std::invalid_argument(
      "activation is \"" + name +
      "\", expected relu, gelu, gelu_new, gelu_pytorch_tanh, silu or swish");
}

Dropped parse_dropped(const std::string& name) {
  if (name == "zero") return Dropped::kZero;
  if (name == "pass") return Dropped::kPass;
  throw std::invalid_argument("dropped is \"" + name + "\", expected zero or pass");
}

float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kRelu: return x < 0 ? 0 : x;
    case Activation::kGelu: return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu: return x / (1.0f + std::exp(-x));
  }
  return x;
}

void moe(const Context& context, const Moe& a) {
  check_experts(a);
  const int64_t d_model = a.wi.columns, d_ff = a.wi.rows;
  const Groups groups = sort_by_expert(a);
  if (groups.count > 0) {
    float* hidden = scratch<float>(Slot::kHidden, a.tokens * d_ff);
    Product product;
    product.x = prepare_inputs(context, a.wi.type, a.x, a.tokens, d_model, Slot::kPrepared);
    product.y = hidden;
    product.y_stride = d_ff;
    product.relu = a.activation == Activation::kRelu;
    grouped_product(context, a.wi, groups, product);

    const auto change = [&](int64_t t) {
      if (a.activation == Activation::kRelu) return;
      for (int64_t i = t * d_ff; i < (t + 1) * d_ff; ++i)
        hidden[i] = activate(a.activation, hidden[i]);
    };
    const bool as_it_is = a.activation == Activation::kRelu && !is_quantised(a.wo.type);
    product.x = as_it_is ? Inputs{hidden, d_ff * static_cast<int64_t>(sizeof(float))}
                         : prepare_inputs(context, a.wo.type, hidden, a.tokens, d_ff,
                                          Slot::kHiddenPrepared, change);
    product.y = a.y;
    product.y_stride = d_model;
    product.relu = false;
    grouped_product(context, a.wo, groups, product);
  }
  finish(context, a);
}

}  // namespace switch_ops
