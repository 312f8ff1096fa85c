// y[t] = gate[t] * (h @ wo[e]^T), e = expert[t]
//
//   h = act(x[t] @ wi[e]^T)      gated: act of the first half of the product, times the second half
//
//   expert ──► sort ──► tokens of each expert that has any
//                            │
//   x ──► prepare ──► @ wi[e]^T, act ──► prepare ──► @ wo[e]^T ──► * gate ──► y
//
// The tokens of an expert are computed together, so that its weights are read once; the tasks of
// a product are parts of the rows of one expert. A task of wi applies the activation to what it
// computed: its threads share that too, even of a single token.
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

// One product per group, the tasks of all of them in one run: compute(own, first, last) for parts
// of `rows` outputs. One output reads stack.rows / rows rows of the stack: two in a gated MLP,
// whose parts are half as long.
template <typename Compute>
void over_groups(const Context& context, const Weight& stack, const Groups& groups, int64_t rows,
                 const Product& product, const Compute& compute) {
  const int64_t kept = groups.first[groups.count];
  const int64_t average = ceil_div(kept, groups.count);
  int64_t step = rows_per_task(stack, average);
  // Many groups are tasks enough.
  const int64_t per_group = std::max<int64_t>(1, ceil_div(4 * kMostTasks, groups.count));
  step = std::max(step, ceil_div(stack.rows, per_group));
  step = ceil_div(ceil_div(step * rows, stack.rows), kRowMultiple) * kRowMultiple;
  const int64_t parts = ceil_div(rows, step);
  context.parallel.each(groups.count * parts, [&](int64_t task) {
    const int64_t g = task / parts, part = task % parts;
    Product own = product;
    own.weight = stack.slice(groups.expert[g]);
    own.tokens = groups.tokens + groups.first[g];
    own.count = groups.first[g + 1] - groups.first[g];
    compute(own, part * step, std::min(rows, (part + 1) * step));
  });
}

// The hidden values of all kept tokens, at the beginning of rows of y.
//
//   a row of y   [ act(h): d_ff ]
//                [ act(h) * factor: d_ff ][ factor: d_ff ]      gated
void hidden_product(const Context& context, const Moe& a, const Groups& groups, Product product) {
  const int64_t d_ff = a.wo.columns;
  product.relu = a.activation == Activation::kRelu && !a.is_gated;
  const auto compute = [&](const Product& own, int64_t first, int64_t last) {
    context.kernels.product(own, first, last);
    if (own.relu) return;
    if (a.is_gated) context.kernels.product(own, d_ff + first, d_ff + last);
    for (int64_t i = 0; i < own.count; ++i) {
      float* h = own.y + own.tokens[i] * own.y_stride + first;
      context.kernels.activate(a.activation, h, a.is_gated ? h + d_ff : nullptr, last - first);
    }
  };
  over_groups(context, a.wi, groups, d_ff, product, compute);
}

// Gates and dropped tokens. Dropped is a select: 0 even where the product would not be finite.
void finish(const Context& context, const Moe& a) {
  if (!a.expert && !a.gate) return;
  const int64_t columns = a.wi.columns;
  const auto* x = static_cast<const float*>(a.x);
  over_tokens(context, a.tokens, columns, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      float* y = a.y + t * columns;
      const float gate = a.gate ? a.gate[t] : 1.0f;
      if (!a.expert || a.expert[t] >= 0) {
        for (int64_t i = 0; i < columns; ++i) y[i] *= gate;
      } else if (a.dropped == Dropped::kZero) {
        std::fill(y, y + columns, 0.0f);
      } else {
        for (int64_t i = 0; i < columns; ++i) y[i] = x[t * columns + i] * gate;
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

void moe(const Context& context, const Moe& a) {
  if (a.x_type != WeightType::kFloat32) {
    throw std::invalid_argument("SwitchMoE: x is of half precision, expected float32 on a CPU");
  }
  check_experts(a);
  const int64_t d_model = a.wi.columns, d_ff = a.wo.columns, width = a.wi.rows;
  const Groups groups = sort_by_expert(a);
  if (groups.count > 0) {
    float* hidden = scratch<float>(Slot::kHidden, a.tokens * width);
    Product product;
    product.x = prepare_inputs(context, a.wi.type,
                               {static_cast<const float*>(a.x), a.tokens, d_model, d_model},
                               Slot::kPrepared);
    product.y = hidden;
    product.y_stride = width;
    hidden_product(context, a, groups, product);

    product.x =
        prepare_inputs(context, a.wo.type, {hidden, a.tokens, d_ff, width}, Slot::kHiddenPrepared);
    product.y = a.y;
    product.y_stride = d_model;
    over_groups(context, a.wo, groups, d_model, product, context.kernels.product);
  }
  finish(context, a);
}

}  // namespace switch_ops
