// Gated MLPs and experts: the first half of the hidden values is activated, the second multiplies.
#include "moe_cases.h"

using namespace switch_tests;

namespace {

double formula(Activation activation, double x) {
  switch (activation) {
    case Activation::kRelu: return x > 0 ? x : 0;
    case Activation::kGelu: return x * std::erfc(-x / std::sqrt(2.0)) / 2;
    case Activation::kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kSilu: return x / (1 + std::exp(-x));
  }
  return x;
}

// In parts of every length up to some vectors, so that each value meets each place of one.
void activations_of_every_length_and_magnitude() {
  Random random(37);
  for (int64_t count = 0; count < 70; ++count) {
    Array<float> x(count), factor(count);
    for (float& v : x)
      v = random.normal() * std::ldexp(1.0f, static_cast<int>(random.between(-40, 40)));
    for (float& v : factor) v = random.normal();
    for (Activation activation : kActivations) {
      for (bool is_gated : {false, true}) {
        on_everything(show(count) + " values", [&](const Context& context) {
          Array<float> h(count);
          std::copy(x.begin(), x.end(), h.begin());
          context.kernels.activate(activation, h.data(), is_gated ? factor.data() : nullptr, count);
          for (int64_t i = 0; i < count; ++i) {
            const double by = is_gated ? factor[i] : 1, expected = formula(activation, x[i]) * by;
            expect(std::abs(h[i] - expected) <= 1e-6 * std::abs(x[i] * by),
                   "activation " + show(static_cast<int>(activation)) + " of " + show(x[i]) +
                       " is " + show(h[i]) + ", expected " + show(expected));
          }
        });
      }
    }
  }
}

void activations_of_what_is_no_number() {
  const float infinity = std::numeric_limits<float>::infinity();
  for (Activation activation : kActivations) {
    on_everything("infinity and NaN", [&](const Context& context) {
      Array<float> h(3);  // the last is NaN, as arrays start
      h[0] = infinity, h[1] = 0;
      context.kernels.activate(activation, h.data(), nullptr, 3);
      expect_equal(h[0], infinity, "of infinity");
      expect_equal(h[1], 0.0f, "of 0");
      expect(std::isnan(h[2]), "NaN stays one");
    });
  }
}

// Both halves are exact; their product is rounded once, to the float32 that the reference
// quantises.
void every_format_and_size() {
  Random random(33);
  const std::vector<int64_t> tokens = {0, 1, 2, 5, 9, 40};
  for (const Format& format : formats()) {
    for (size_t i = 0; i < kSizes.size(); ++i) {
      const auto& [d_model, d_ff] = kSizes[i];
      const int64_t experts = random.between(1, 5), count = tokens[i % tokens.size()];
      Layer layer = make_layer(random, format, {experts, d_model, d_ff, count, true}, true);
      layer.call.dropped = i % 2 ? Dropped::kPass : Dropped::kZero;
      for (int32_t& e : layer.expert) e = random.below(4) ? e : -1;
      check(layer, kTolerance);
    }
  }
}

void every_activation() {
  Random random(34);
  for (const Format& format : formats()) {
    for (Activation activation : kActivations) {
      Layer layer = make_layer(random, format, {2, 33, 65, 6, true}, false);
      for (float& x : layer.x) x *= 4;
      layer.call.activation = activation;
      layer.what += ", activation " + show(static_cast<int>(activation));
      check(layer, format.quantised() ? kRoundedTwice : kTolerance);
    }
  }
}

// The halves of a task's rows lie far apart; every task has both of its own.
void experts_of_many_rows() {
  Random random(35);
  for (const Format& format : formats()) {
    for (int64_t tokens : {1, 11}) {
      const int64_t d_ff = kSanitized ? 300 : 1030;
      Layer layer = make_layer(random, format, {3, 130, d_ff, tokens, true}, true);
      for (int64_t t = 0; t < tokens; ++t) layer.expert[t] = t < 9 ? 1 : t == 9 ? 2 : 0;
      check(layer, kTolerance);
    }
  }
}

void mlp_is_one_expert_without_gate() {
  Random random(36);
  for (const Format& format : formats()) {
    for (int64_t tokens : {0, 1, 9}) {
      Layer layer = make_layer(random, format, {1, 65, 34, tokens, true}, true);
      layer.call.expert = nullptr;
      layer.call.gate = nullptr;
      check(layer, kTolerance);
    }
  }
}

}  // namespace

int main() {
  return run_tests({
      {"activations of every length and magnitude", activations_of_every_length_and_magnitude},
      {"activations of what is no number", activations_of_what_is_no_number},
      {"every format and size", every_format_and_size},
      {"every activation", every_activation},
      {"experts of many rows", experts_of_many_rows},
      {"an MLP is one expert without gate", mlp_is_one_expert_without_gate},
  });
}
