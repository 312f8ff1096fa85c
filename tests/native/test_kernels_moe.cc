// SwitchMoE and SwitchMLP: who gets which expert, what a dropped token gets, every type of weight.
#include "moe_cases.h"

using namespace switch_tests;
namespace reference = switch_ops::reference;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void every_format_size_and_number_of_tokens() {
  Random random(21);
  const std::vector<int64_t> tokens = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64, 130};
  const std::vector<int64_t> experts = {1, 2, 7, 64};
  for (const Format& format : formats()) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto [d_model, d_ff] = random.of(kSizes);
      const int64_t count = kSanitized ? std::min<int64_t>(tokens[i], 17) : tokens[i];
      Layer layer = make_layer(random, format, {experts[i % 4], d_model, d_ff, count}, true);
      layer.call.dropped = i % 2 ? Dropped::kPass : Dropped::kZero;
      for (int32_t& e : layer.expert) e = random.below(4) ? e : -1;
      check(layer, kTolerance);
    }
    for (const auto& [d_model, d_ff] : kSizes) {
      check(make_layer(random, format, {3, d_model, d_ff, 5}, true), kTolerance);
    }
  }
}

// Hidden values that are not exact: their last bit may decide between two int8 values.
void random_weights_of_every_format() {
  Random random(22);
  for (const Format& format : formats()) {
    for (int i = 0; i < (kSanitized ? 2 : 8); ++i) {
      const auto [d_model, d_ff] = kSizes[static_cast<size_t>(2 + random.below(6))];
      const int64_t experts = random.between(1, 9), tokens = random.between(1, 40);
      Layer layer = make_layer(random, format, {experts, d_model, d_ff, tokens}, false);
      layer.call.activation = kActivations[static_cast<size_t>(i % 4)];
      check(layer, format.quantised() ? kRoundedTwice : kTolerance);
    }
  }
}

void every_activation() {
  Random random(23);
  for (const Format& format : formats()) {
    for (Activation activation : kActivations) {
      Layer layer = make_layer(random, format, {2, 130, 330, 6}, false);  // several tasks
      for (float& x : layer.x) x *= 4;
      layer.call.activation = activation;
      const bool exact = !format.quantised();
      layer.what += ", activation " + show(static_cast<int>(activation));
      check(layer, exact ? kTolerance : kRoundedTwice);
    }
  }
}

void one_expert_gets_all_tokens_and_others_none() {
  Random random(24);
  for (const Format& format : formats()) {
    for (int64_t experts : {2, 7, 64}) {
      for (int32_t busy : {0, static_cast<int>(experts) / 2, static_cast<int>(experts) - 1}) {
        Layer layer = make_layer(random, format, {experts, 33, 31, 19}, true);
        std::fill(layer.expert.begin(), layer.expert.end(), busy);
        layer.what += ", all on " + show(busy);
        check(layer, kTolerance);
      }
    }
  }
}

// Weights of experts that no token chose are not there at all: touching one ends the program.
void experts_without_tokens_are_not_read() {
  Random random(25);
  const auto page = static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  for (const Format& format : formats()) {
    // One expert is 4 pages at least in every format.
    Layer layer = make_layer(random, format, {5, 256, 4 * page / 128, 7}, true);
    for (int32_t& e : layer.expert) e = 1 + 2 * (e % 2);
    const auto expected = reference::moe(layer.call);
    for (const Stack* stack : {&layer.wi, &layer.wo}) {
      const int64_t expert_bytes = stack->weight.rows * stack->weight.row_bytes();
      for (int64_t e : {0, 2, 4}) {
        char* first = stack->values.data() + e * expert_bytes;
        const int64_t skip = (page - reinterpret_cast<intptr_t>(first) % page) % page;
        const int64_t room = (expert_bytes - skip) / page * page;
        expect(room > 0, "an expert has whole pages");
        mprotect(first + skip, static_cast<size_t>(room), PROT_NONE);
      }
    }
    on_everything(layer.what, [&](const Context& context) {
      Array<float> y(layer.x.size());
      Moe own = layer.call;
      own.y = y.data();
      switch_ops::moe(context, own);
      expect_near(y, expected, kTolerance, "y");
    });
  }
}

void every_dropped_pattern_of_four_tokens() {
  Random random(26);
  for (const Format& format : formats()) {
    for (int pattern = 0; pattern < 16; ++pattern) {
      Layer layer = make_layer(random, format, {3, 7, 33, 4}, true);
      for (int t = 0; t < 4; ++t) {
        if (pattern >> t & 1) layer.expert[t] = -1;
      }
      for (Dropped dropped : {Dropped::kZero, Dropped::kPass}) {
        layer.call.dropped = dropped;
        layer.what = format.name() + ", pattern " + show(pattern);
        check(layer, kTolerance);
      }
    }
  }
}

// A select: exactly 0 where the product would not be a number, and nothing of it in other tokens.
void dropped_token_of_infinities_gets_exactly_zero() {
  Random random(27);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Format& format : formats()) {
    for (float bad : {kInfinity, -kInfinity, nan}) {
      Layer layer = make_layer(random, format, {2, 34, 18, 3}, true);
      std::fill(layer.x.data() + 34, layer.x.data() + 68, 0.0f);
      layer.expert[1] = -1;
      const auto expected = reference::moe(layer.call);
      std::fill(layer.x.data() + 34, layer.x.data() + 68, bad);
      layer.x[40] = -kInfinity;
      layer.gate[1] = bad;
      on_everything(format.name() + ", " + show(bad), [&](const Context& context) {
        Array<float> y(layer.x.size());
        Moe own = layer.call;
        own.y = y.data();
        switch_ops::moe(context, own);
        for (int64_t i = 34; i < 68; ++i) expect_equal(y[i], 0.0f, "y of the dropped token");
        expect_near(y, expected, kTolerance, "y");
      });
    }
  }
}

void two_thousand_experts() {
  Random random(28);
  for (const Format& format : formats()) {
    for (int64_t tokens : {1, 5, 130}) {
      Layer layer = make_layer(random, format, {2048, 9, 5, tokens}, true);
      layer.expert[0] = 2047;
      if (tokens > 2) layer.expert[1] = 0, layer.expert[2] = -1;
      check(layer, kTolerance);
    }
  }
}

// Several tasks for each expert, groups of different sizes.
void experts_of_many_rows() {
  Random random(29);
  for (const Format& format : formats()) {
    Layer layer = make_layer(random, format, {3, 130, kSanitized ? 300 : 1030, 11}, true);
    for (int64_t t = 0; t < 11; ++t) layer.expert[t] = t < 9 ? 1 : t == 9 ? 2 : 0;
    check(layer, kTolerance);
  }
}

// Each of the two stacks has a type of its own.
void stacks_of_different_types() {
  Random random(32);
  for (const Format& first : formats()) {
    const Format& second = formats()[static_cast<size_t>(random.below(13))];
    Layer layer = make_layer(random, first, {3, 66, 34, 7}, true);
    layer.wo = random_stack(random, second, {66, 34, 3}, second.quantised());
    layer.call.wo = layer.wo.weight;
    layer.what += ", wo in " + second.name();
    check(layer, first.quantised() == second.quantised() ? kTolerance : kRoundedTwice);
  }
}

void mlp_is_one_expert_without_gate() {
  Random random(30);
  for (const Format& format : formats()) {
    for (int64_t tokens : {0, 1, 3, 9, 33}) {
      Layer layer = make_layer(random, format, {1, 65, 34, tokens}, true);
      layer.call.expert = nullptr;
      layer.call.gate = nullptr;
      check(layer, kTolerance);
    }
  }
}

void experts_outside_the_stack_are_refused() {
  Random random(31);
  Layer layer = make_layer(random, formats()[0], {3, 4, 5, 4}, false);
  for (int32_t expert : {-2, 3, 1 << 30}) {
    layer.expert[2] = expert;
    on_everything("expert " + show(expert), [&](const Context& context) {
      Array<float> y(layer.x.size());
      Moe own = layer.call;
      own.y = y.data();
      expect_refused({"SwitchMoE", show(expert), "token 2", "-1 to 2"},
                     [&] { switch_ops::moe(context, own); });
    });
  }
}

void names_of_activations_and_policies() {
  using switch_ops::parse_activation;
  using switch_ops::parse_dropped;
  expect(parse_activation("relu") == Activation::kRelu, "relu");
  expect(parse_activation("gelu") == Activation::kGelu, "gelu");
  expect(parse_activation("gelu_new") == Activation::kGeluTanh, "gelu_new");
  expect(parse_activation("gelu_pytorch_tanh") == Activation::kGeluTanh, "gelu_pytorch_tanh");
  expect(parse_activation("silu") == Activation::kSilu, "silu");
  expect(parse_activation("swish") == Activation::kSilu, "swish");
  expect(parse_dropped("zero") == Dropped::kZero, "zero");
  expect(parse_dropped("pass") == Dropped::kPass, "pass");
  expect_refused({"activation", "\"tanh\"", "relu", "swish"}, [] { parse_activation("tanh"); });
  expect_refused({"dropped", "\"\"", "zero or pass"}, [] { parse_dropped(""); });
}

}  // namespace

int main() {
  return run_tests({
      {"every format, size and number of tokens", every_format_size_and_number_of_tokens},
      {"random weights of every format", random_weights_of_every_format},
      {"every activation", every_activation},
      {"one expert gets all tokens and others none", one_expert_gets_all_tokens_and_others_none},
      {"experts without tokens are not read", experts_without_tokens_are_not_read},
      {"every dropped pattern of four tokens", every_dropped_pattern_of_four_tokens},
      {"dropped token of infinities gets exactly zero",
       dropped_token_of_infinities_gets_exactly_zero},
      {"two thousand experts", two_thousand_experts},
      {"experts of many rows", experts_of_many_rows},
      {"stacks of different types", stacks_of_different_types},
      {"an MLP is one expert without gate", mlp_is_one_expert_without_gate},
      {"experts outside the stack are refused", experts_outside_the_stack_are_refused},
      {"names of activations and policies", names_of_activations_and_policies},
  });
}
