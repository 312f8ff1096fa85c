// The router on a device: residual, norm, top-1 routes and capacity.
#include "cuda/operators.h"
#include "device_array.h"

using namespace switch_tests;
namespace cuda = switch_ops::cuda;
namespace reference = switch_ops::reference;

namespace {

const std::vector<WeightType> kTypes = {WeightType::kFloat32, WeightType::kFloat16,
                                        WeightType::kBFloat16};

// Relative, of one rounding to the type; beside float32's kTolerance.
double rounding(WeightType type) {
  return type == WeightType::kFloat32 ? 0 : type == WeightType::kFloat16 ? 0x1p-11 : 0x1p-8;
}

struct Sizes {
  int64_t batch, tokens, columns, experts, capacity = -1;
  WeightType type = WeightType::kFloat32;
  bool has_delta = true, has_bias = false, wants_sum = true;

  int64_t values() const { return batch * tokens * columns; }
  std::string name() const {
    return show(batch) + " x " + show(tokens) + " tokens of " + show(columns) + ", " +
           show(experts) + " experts, capacity " + show(capacity) + ", type " +
           show(static_cast<int>(type)) + (has_delta ? "" : ", no delta") +
           (has_bias ? ", bias" : "");
  }
};

struct Inputs {
  Array<float> x, delta, norm, classifier, bias;
};

Inputs random_inputs(Random& random, const Sizes& s) {
  Inputs inputs{random.normals(s.values()), random.normals(s.values(), 0.5f),
                random.normals(s.columns), random.normals(s.experts * s.columns, 0.3f),
                random.normals(s.experts)};
  if (!s.has_delta) std::fill(inputs.delta.begin(), inputs.delta.end(), 0.0f);
  if (!s.has_bias) std::fill(inputs.bias.begin(), inputs.bias.end(), 0.0f);
  return inputs;
}

struct Outputs {
  Array<float> sum, normed, gate;
  Array<int32_t> expert;
};

constexpr float kEpsilon = 1e-3f;

// `in_place`: sum is x.
Outputs run(const Sizes& s, const Inputs& inputs, bool in_place = false) {
  const DeviceArray<float> x(inputs.x), delta(inputs.delta), norm(inputs.norm),
      classifier(inputs.classifier), bias(inputs.bias), sum(s.values()), gate(s.batch * s.tokens);
  const DeviceArray<char> normed(s.values() * (s.type == WeightType::kFloat32 ? 4 : 2));
  const DeviceArray<int32_t> expert(gate.size());
  cuda::route(
      {}, {x.data(), s.has_delta ? delta.data() : nullptr, norm.data(), kEpsilon, classifier.data(),
           s.has_bias ? bias.data() : nullptr, s.batch, s.tokens, s.columns, s.experts, s.capacity,
           in_place      ? x.data()
           : s.wants_sum ? sum.data()
                         : nullptr,
           normed.data(), static_cast<int32_t>(s.type), expert.data(), gate.data()});
  return {in_place ? x.values() : sum.values(), from_type(s.type, normed.values()), gate.values(),
          expert.values()};
}

// Routes are those of the rounded values that the kernel itself gave: roundings and ties agree.
void expect_routes(const Sizes& s, const Inputs& inputs, const Outputs& found) {
  const auto routes = reference::route({found.normed.data(), s.batch, s.tokens, s.columns,
                                        s.experts, inputs.classifier.data(), inputs.bias.data(),
                                        s.capacity, nullptr, nullptr});
  for (int64_t t = 0; t < s.batch * s.tokens; ++t) {
    const auto at = static_cast<size_t>(t);
    expect_equal(found.expert[t], routes.expert[at], "expert of token " + show(t));
    const double gate = reference::round_to(s.type, found.gate[t]);
    expect_equal(static_cast<double>(found.gate[t]), gate, "gate as its type holds it");
    expect_close(gate, routes.gate[at], kTolerance + rounding(s.type), "gate of " + show(t));
  }
}

void expect_rows(const Sizes& s, const Inputs& inputs, const Outputs& found) {
  const auto rows = reference::norm({{inputs.x.data(), inputs.delta.data(), inputs.norm.data(),
                                      kEpsilon, s.columns, nullptr, nullptr},
                                     s.batch * s.tokens});
  if (s.wants_sum) expect_near(found.sum, rows.sum, kTolerance, "sum");
  for (int64_t i = 0; i < s.values(); ++i) {
    const double expected = rows.normed[static_cast<size_t>(i)];
    expect_close(found.normed[i], expected, kTolerance + rounding(s.type),
                 "normed[" + show(i) + "]");
    expect(found.normed[i] == reference::round_to(s.type, found.normed[i]), "normed is rounded");
  }
}

void check(const Sizes& s, const Inputs& inputs) {
  in_every_order(8, s.name(), [&] {
    const Outputs found = run(s, inputs);
    expect_rows(s, inputs, found);
    expect_routes(s, inputs, found);
  });
}

void check(Random& random, const Sizes& s) { check(s, random_inputs(random, s)); }

void routes_of_one_token() {
  Random random(81);
  for (int64_t experts : {1, 2, 7, 8, 31, 32, 33, 64, 100, 128, 256}) {
    check(random, {1, 1, random.of<int64_t>({4, 12, 128, 132, 768}), experts, -1, random.of(kTypes),
                   random.below(3) > 0, random.below(2) == 0});
  }
  check(random, {1, 1, 768, 8, -1, WeightType::kBFloat16});
  check(random, {1, 1, 768, 128, -1, WeightType::kBFloat16, true, true});
  check(random, {1, 1, 64, 2048, -1, WeightType::kFloat16});
  check(random, {1, 1, 4100, 9});
}

void routes_of_several_tokens() {
  Random random(82);
  for (WeightType type : kTypes) {
    for (bool has_delta : {true, false}) {
      for (bool has_bias : {true, false}) {
        check(random, {2, 3, 100, 9, -1, type, has_delta, has_bias, has_delta != has_bias});
      }
    }
  }
}

// So many that blocks of eight tokens share the classifier; the last one is not full.
void routes_of_many_tokens() {
  Random random(83);
  check(random, {1, 301, 132, 9, -1, WeightType::kBFloat16, true, true});
  check(random, {3, 43, 768, 8, 5, WeightType::kFloat16});
  check(random, {2, 33, 136, 67, -1, WeightType::kFloat32, false, true});
  check(random, {25, 1, 260, 128, 1, WeightType::kBFloat16, true, false, false});
  check(random, {17, 8, 260, 128, 2, WeightType::kBFloat16});  // on a large device, too
}

void the_residual_stream_may_be_updated_in_place() {
  Random random(84);
  for (const Sizes& s : {Sizes{1, 1, 768, 8}, Sizes{2, 60, 128, 32}}) {
    const Inputs inputs = random_inputs(random, s);
    in_every_order(8, s.name(), [&] {
      const Outputs found = run(s, inputs, true);
      expect_rows(s, inputs, found);
      expect_routes(s, inputs, found);
    });
  }
}

void a_sum_that_is_not_wanted_is_not_written() {
  Random random(85);
  const Sizes s{1, 2, 8, 3, -1, WeightType::kFloat32, true, false, false};
  const Outputs found = run(s, random_inputs(random, s));
  for (float v : found.sum) expect(std::isnan(v), "sum is as it was");
}

// Experts with the same rows: all sums are the same, bit for bit, wherever the experts are.
void a_tie_goes_to_the_lowest_index() {
  Random random(86);
  for (const Sizes& s : {Sizes{1, 5, 36, 40}, Sizes{1, 600, 36, 40}, Sizes{1, 1, 16, 200}}) {
    const Inputs inputs = random_inputs(random, s);
    for (int64_t e = 0; e < s.experts; ++e) {
      const int64_t same = e % 5;
      for (int64_t c = 0; c < s.columns; ++c) {
        inputs.classifier[e * s.columns + c] = inputs.classifier[same * s.columns + c];
      }
    }
    check(s, inputs);
    for (float& v : inputs.classifier) v = 0;  // all of them
    in_every_order(8, s.name(), [&] {
      for (int32_t e : run(s, inputs).expert) expect_equal(e, 0, "expert");
    });
  }
}

// Logits that differ, but whose probabilities do not in float32.
void equal_probabilities_are_a_tie() {
  const Sizes s{1, 1, 4, 4, -1, WeightType::kFloat32, false, true};
  Inputs inputs{Array<float>(4), Array<float>(4), Array<float>(4), Array<float>(16),
                Array<float>(4)};
  for (float& v : inputs.x) v = 1;
  for (float& v : inputs.norm) v = 1;
  for (float& v : inputs.classifier) v = 0;
  const float most = 0x1p-10f;
  const auto chosen = [&](float less) {
    inputs.bias[0] = -1, inputs.bias[1] = most - less, inputs.bias[2] = most, inputs.bias[3] = 0;
    return run(s, inputs).expert[0];
  };
  expect_equal(chosen(0x1p-25f), 1, "expert that is less by half a place of 1");
  expect_equal(chosen(0x1p-25f + 0x1p-34f), 2, "expert of the largest by more than that");
}

void capacity_counts_along_each_row() {
  Random random(87);
  for (int64_t capacity : {0, 1, 2, 7, 40, 99, 100, 101}) {
    check(random, {3, 100, 8, random.of<int64_t>({1, 2, 5, 33}), capacity});
  }
  for (int64_t tokens : {2, 31, 32, 33, 64, 65}) check(random, {2, tokens, 8, 3, 1});
  check(random, {40, 1, 8, 3, 0});
}

// A dropped token keeps its gate, and which ones are dropped is known by hand here.
void the_first_tokens_of_an_expert_stay() {
  const Sizes s{2, 70, 4, 2, 3, WeightType::kFloat32, false};
  Inputs inputs{Array<float>(s.values()), Array<float>(s.values()), Array<float>(4),
                Array<float>(8), Array<float>(2)};
  for (float& v : inputs.norm) v = 1;
  for (float& v : inputs.delta) v = 0;
  for (float& v : inputs.bias) v = 0;
  for (int64_t i = 0; i < 8; ++i) inputs.classifier[i] = i < 4 ? 0.0f : 1.0f;
  const auto wants_second = [](int64_t t) { return t == 1 || t == 40 || t == 69; };
  for (int64_t i = 0; i < s.values(); ++i) {
    inputs.x[i] = wants_second(i / 4 % s.tokens) ? 1.0f : -1.0f;
  }
  in_every_order(8, s.name(), [&] {
    const Outputs found = run(s, inputs);
    for (int64_t i = 0; i < s.batch * s.tokens; ++i) {
      const int64_t t = i % s.tokens;  // 0, 2 and 3 are the first of expert 0
      const int32_t expected = wants_second(t) ? 1 : t <= 3 ? 0 : -1;
      expect_equal(found.expert[i], expected, "expert of token " + show(t));
      expect_close(found.gate[i], 0.98201, 1e-4, "gate of token " + show(t));
    }
  });
}

void experts_stay_in_range_where_logits_are_no_numbers() {
  Random random(88);
  const Sizes s{1, 3, 8, 40};
  const Inputs inputs = random_inputs(random, s);
  inputs.x[0] = std::numeric_limits<float>::quiet_NaN();
  inputs.x[8] = std::numeric_limits<float>::infinity();
  const Outputs found = run(s, inputs);
  expect_equal(found.expert[0], 0, "expert of NaN");
  expect_equal(found.expert[1], 0, "expert of infinity");
  expect(found.expert[2] >= 0 && found.expert[2] < 40, "expert of another token");
}

void no_token_is_no_work() {
  for (const auto& [batch, tokens] : std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {3, 0}}) {
    switch_cuda_router a{};
    a.batch = batch, a.tokens = tokens, a.columns = 8, a.experts = 2;
    cuda::route({}, a);
  }
}

void wrong_arguments_are_refused() {
  const DeviceArray<float> array(64);
  const DeviceArray<int32_t> expert(4);
  const switch_cuda_router right{
      array.data(), nullptr, array.data(), kEpsilon, array.data(),  nullptr,     1, 1, 8, 3,
      -1,           nullptr, array.data(), 0,        expert.data(), array.data()};
  const auto refused = [&](const std::vector<std::string>& parts, auto change) {
    switch_cuda_router wrong = right;
    change(wrong);
    expect_refused(parts, [&] { cuda::route({}, wrong); });
  };
  refused({"SwitchRouter", "columns is 6", "multiple of 4"}, [](auto& a) { a.columns = 6; });
  refused({"columns is 0"}, [](auto& a) { a.columns = 0; });
  refused({"experts is 0", "at least 1"}, [](auto& a) { a.experts = 0; });
  refused({"experts is 60000", "shared memory"}, [](auto& a) { a.experts = 60000; });
  refused({"capacity is -2"}, [](auto& a) { a.capacity = -2; });
  refused({"batch -1"}, [](auto& a) { a.batch = -1; });
  refused({"tokens 65536", "2^31"}, [](auto& a) { a.batch = a.tokens = 65536; });
  refused({"normed_type is 3"}, [](auto& a) { a.normed_type = 3; });
  refused({"classifier is NULL"}, [](auto& a) { a.classifier = nullptr; });
  refused({"delta is not aligned", "16 bytes"}, [](auto& a) { a.delta = a.x + 1; });
}

}  // namespace

int main() {
  return run_tests({
      {"routes of one token", routes_of_one_token},
      {"routes of several tokens", routes_of_several_tokens},
      {"routes of many tokens", routes_of_many_tokens},
      {"the residual stream may be updated in place", the_residual_stream_may_be_updated_in_place},
      {"a sum that is not wanted is not written", a_sum_that_is_not_wanted_is_not_written},
      {"a tie goes to the lowest index", a_tie_goes_to_the_lowest_index},
      {"equal probabilities are a tie", equal_probabilities_are_a_tie},
      {"capacity counts along each row", capacity_counts_along_each_row},
      {"the first tokens of an expert stay", the_first_tokens_of_an_expert_stay},
      {"experts stay in range where logits are no numbers",
       experts_stay_in_range_where_logits_are_no_numbers},
      {"no token is no work", no_token_is_no_work},
      {"wrong arguments are refused", wrong_arguments_are_refused},
  });
}
