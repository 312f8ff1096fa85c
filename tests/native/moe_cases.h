// One call of SwitchMoE or SwitchMLP on random weights, and its comparison with the reference.
#ifndef SWITCH_TESTS_MOE_CASES_H_
#define SWITCH_TESTS_MOE_CASES_H_

#include "kernel_cases.h"

namespace switch_tests {

using switch_ops::Activation;
using switch_ops::Dropped;
using switch_ops::Moe;

inline const std::vector<Activation> kActivations = {Activation::kRelu, Activation::kGelu,
                                                     Activation::kGeluTanh, Activation::kSilu};
// d_model and d_ff
inline const std::vector<std::pair<int64_t, int64_t>> kSizes = {
    {1, 1}, {3, 7}, {31, 33}, {65, 63}, {97, 100}, {128, 96}, {33, 130}, {64, 65}};

// One call and everything that it points to.
struct Layer {
  Stack wi, wo;
  Array<float> x, gate;
  Array<int32_t> expert;
  Moe call;
  std::string what;
};

struct Sizes {
  int64_t experts, d_model, d_ff, tokens;
  bool is_gated = false;
};

// Values for which every hidden value is exact, so that its rounding to int8 is the reference's.
inline Layer make_layer(Random& random, const Format& format, const Sizes& s, bool whole) {
  Layer layer;
  const int64_t d_model = format.legal(s.d_model), d_ff = format.legal(s.d_ff);
  const bool exact = whole && format.quantised();
  const int64_t wi_rows = s.is_gated ? 2 * d_ff : d_ff;
  layer.wi = random_stack(random, format, {wi_rows, d_model, s.experts}, exact);
  layer.wo = random_stack(random, format, {d_model, d_ff, s.experts}, exact);
  layer.x = exact ? random.whole_rows(s.tokens, d_model) : random.normals(s.tokens * d_model);
  layer.gate = Array<float>(s.tokens);
  layer.expert = Array<int32_t>(s.tokens);
  for (float& gate : layer.gate) gate = 0.5f + 0.25f * random.uniform();
  for (int32_t& e : layer.expert) e = static_cast<int32_t>(random.below(s.experts));
  layer.call = {layer.x.data(),  s.tokens,        layer.expert.data(), layer.gate.data(),
                layer.wi.weight, layer.wo.weight, Activation::kRelu,   Dropped::kZero,
                nullptr,         s.is_gated};
  layer.what = format.name() + ", " + show(s.experts) + " experts of " + show(d_model) + " x " +
               show(d_ff) + ", " + show(s.tokens) + " tokens" + (s.is_gated ? ", gated" : "");
  return layer;
}

inline void check(const Layer& layer, double tolerance) {
  const auto expected = switch_ops::reference::moe(layer.call);
  on_everything(layer.what, [&](const Context& context) {
    Array<float> y(layer.call.tokens * layer.call.wi.columns);
    Moe own = layer.call;
    own.y = y.data();
    switch_ops::moe(context, own);
    expect_near(y, expected, tolerance, "y");
  });
}

}  // namespace switch_tests

#endif  // SWITCH_TESTS_MOE_CASES_H_
