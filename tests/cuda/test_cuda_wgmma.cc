// multiply_wgmma: tiles that are whole, partial and missing, both stages, every choice of rows.
#include <algorithm>
#include <numeric>

#include "device_array.h"
#include "moe_cases.h"
#include "products.h"

using namespace switch_tests;
using switch_ops::cuda::GroupedProduct;
using switch_ops::cuda::Stage;

namespace {

namespace cuda = switch_ops::cuda;
namespace reference = switch_ops::reference;

const std::vector<WeightType> kHalves = {WeightType::kBFloat16, WeightType::kFloat16};

// Small integers: sums are exact, and so is every comparison.
Typed integers(Random& random, WeightType type, int64_t count) {
  Array<float> values(count);
  for (float& v : values) v = static_cast<float>(random.between(-2, 2));
  return as_type(type, values);
}

// Token numbers by expert, as sort_tokens gives them; -1: dropped.
struct Routes {
  std::vector<int32_t> expert, tokens, first;
  DeviceArray<int32_t> device_tokens, device_first;

  Routes(std::vector<int32_t> routes, int64_t experts) : expert(std::move(routes)) {
    for (int32_t e = 0; e < experts; ++e) {
      first.push_back(static_cast<int32_t>(tokens.size()));
      for (size_t t = 0; t < expert.size(); ++t) {
        if (expert[t] == e) tokens.push_back(static_cast<int32_t>(t));
      }
    }
    first.push_back(static_cast<int32_t>(tokens.size()));
    Array<int32_t> places(count()), starts(experts + 1);
    std::fill(places.begin(), places.end(), 1 << 30);  // behind the sorted ones: not to be read
    std::copy(tokens.begin(), tokens.end(), places.begin());
    std::copy(first.begin(), first.end(), starts.begin());
    device_tokens = DeviceArray<int32_t>(places);
    device_first = DeviceArray<int32_t>(starts);
  }
  int64_t count() const { return static_cast<int64_t>(expert.size()); }
  int64_t sorted() const { return static_cast<int64_t>(tokens.size()); }
};

// `counts` tokens of each expert and `dropped` of none, in any order.
Routes shuffled(Random& random, const std::vector<int64_t>& counts, int64_t dropped) {
  std::vector<int32_t> expert(static_cast<size_t>(dropped), -1);
  for (size_t e = 0; e < counts.size(); ++e) {
    expert.insert(expert.end(), static_cast<size_t>(counts[e]), static_cast<int32_t>(e));
  }
  for (size_t i = expert.size(); i > 1; --i) {
    std::swap(expert[i - 1], expert[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
  }
  return Routes(expert, static_cast<int64_t>(counts.size()));
}

// Of the weight: rows of one factor, and columns.
struct Size {
  int64_t outputs, columns;
  bool is_gated;
};

// A product of integers and everything that it points to.
struct Problem {
  const Routes& routes;
  Typed x, weight;
  DeviceArray<char> device_x, device_weight;
  GroupedProduct call{};
  int64_t outputs;

  Problem(Random& random, const Routes& r, WeightType type, const Size& s)
      : routes(r),
        x(integers(random, type, r.count() * s.columns)),
        weight(integers(random, type, experts() * (s.is_gated ? 2 : 1) * s.outputs * s.columns)),
        device_x(x.bits),
        device_weight(weight.bits),
        outputs(s.outputs) {
    call.x = device_x.data();
    call.x_type = type;
    call.tokens = r.count();
    call.groups = {r.device_tokens.data(), r.device_first.data()};
    call.weight = {type, device_weight.data(), nullptr, (s.is_gated ? 2 : 1) * s.outputs,
                   s.columns};
    call.weight.count = experts();
    call.is_gated = s.is_gated;
  }
  int64_t experts() const { return static_cast<int64_t>(routes.first.size()) - 1; }

  // The sum for row `row` of x and row `output` of an expert's weight.
  double sum(int64_t row, int64_t expert, int64_t output) const {
    const Weight& w = call.weight;
    const float* a = x.values.data() + row * w.columns;
    const float* b = weight.values.data() + (expert * w.rows + output) * w.columns;
    return std::inner_product(a, a + w.columns, b, 0.0);
  }
};

// Rows of `columns` values; NaN where nothing may have been written.
void expect_same(const Array<float>& found, const std::vector<double>& expected, int64_t columns) {
  for (int64_t i = 0; i < found.size(); ++i) {
    const double value = expected[static_cast<size_t>(i)];
    if (std::isnan(value) ? std::isnan(found[i]) : found[i] == value) continue;
    throw Failure{"y[" + show(i / columns) + ", " + show(i % columns) + "] is " + show(found[i]) +
                  ", expected " + show(value)};
  }
}

void check_hidden(Problem& p, const std::string& what) {
  std::vector<double> expected(static_cast<size_t>(p.routes.count() * p.outputs), NAN);
  for (int64_t place = 0; place < p.routes.sorted(); ++place) {
    const int32_t token = p.routes.tokens[static_cast<size_t>(place)];
    const int32_t expert = p.routes.expert[static_cast<size_t>(token)];
    for (int64_t o = 0; o < p.outputs; ++o) {
      const double h = std::max(p.sum(token, expert, o), 0.0);
      const double factor = p.call.is_gated ? p.sum(token, expert, p.outputs + o) : 1;
      expected[static_cast<size_t>(place * p.outputs + o)] =
          reference::round_to(p.call.x_type, h * factor);
    }
  }
  p.call.stage = Stage::kHidden;
  p.call.y_type = p.call.x_type;
  in_every_order(9, what, [&] {
    DeviceArray<char> y(p.routes.count() * p.outputs * 2);
    p.call.y = y.data();
    cuda::multiply_wgmma({}, p.call);
    expect_same(from_type(p.call.x_type, y.values()), expected, p.outputs);
  });
}

void check_output(Problem& p, bool accumulate, bool has_gate, const std::string& what) {
  const int64_t tokens = p.routes.count();
  Array<float> gate(tokens), old(tokens * p.outputs);
  for (int64_t t = 0; t < tokens; ++t) gate[t] = 0.25f * static_cast<float>(t % 5 - 2);
  for (int64_t i = 0; i < old.size() && accumulate; ++i) old[i] = static_cast<float>(i % 7);
  std::vector<double> expected(old.begin(), old.end());  // NaN where nothing is added to
  for (int64_t place = 0; place < p.routes.sorted(); ++place) {
    const int32_t token = p.routes.tokens[static_cast<size_t>(place)];
    const int32_t expert = p.routes.expert[static_cast<size_t>(token)];
    for (int64_t o = 0; o < p.outputs; ++o) {
      double& y = expected[static_cast<size_t>(token * p.outputs + o)];
      y = (accumulate ? y : 0) + (has_gate ? gate[token] : 1.0f) * p.sum(place, expert, o);
    }
  }
  const DeviceArray<float> device_gate(gate);
  p.call.stage = Stage::kOutput;
  p.call.y_type = WeightType::kFloat32;
  p.call.gate = has_gate ? device_gate.data() : nullptr;
  p.call.accumulate = accumulate;
  in_every_order(9, what, [&] {
    const DeviceArray<float> y(old);
    p.call.y = y.data();
    cuda::multiply_wgmma({}, p.call);
    expect_same(y.values(), expected, p.outputs);
  });
}

// What the emulator's three processors make of these: 256, 192 and 128 rows of weight at once.
const std::vector<Size> kShapes = {{256, 136, false}, {520, 64, false}, {128, 72, false}};
const std::vector<int64_t> kUneven = {150, 0, 33, 64, 3};  // one expert has 60 %, one nothing

void hidden_values_are_exact() {
  Random random(1);
  const Routes routes = shuffled(random, kUneven, 7);
  for (const Size& shape : kShapes) {
    for (WeightType type : kHalves) {
      Problem p(random, routes, type, shape);
      check_hidden(p, Format{type, 0}.name() + ", " + show(shape.outputs) + " outputs");
    }
  }
}

void gated_hidden_values_are_exact() {
  Random random(2);
  const Routes routes = shuffled(random, {70, 0, 131}, 2);
  for (const Size& shape : std::vector<Size>{{128, 64, true}, {264, 72, true}, {40, 8, true}}) {
    Problem p(random, routes, WeightType::kBFloat16, shape);
    check_hidden(p, show(shape.outputs) + " outputs");
  }
}

void outputs_go_to_their_tokens() {
  Random random(3);
  const Routes routes = shuffled(random, kUneven, 7);
  for (const Size& shape : kShapes) {
    Problem p(random, routes, WeightType::kBFloat16, shape);
    check_output(p, false, true, show(shape.outputs) + " outputs");
  }
  Problem p(random, routes, WeightType::kFloat16, {264, 192, false});
  check_output(p, true, true, "accumulated");
  check_output(p, true, false, "accumulated without gates");
}

void tiles_end_where_experts_do() {
  Random random(4);
  for (int64_t count : {1, 63, 64, 65, 127, 128, 129, 257}) {
    const Routes routes = shuffled(random, {count, 2}, 0);
    Problem p(random, routes, WeightType::kBFloat16, {72, 64, false});
    check_hidden(p, show(count) + " tokens");
  }
}

void every_token_may_be_dropped() {
  Random random(5);
  const Routes routes = shuffled(random, {0, 0, 0}, 20);
  Problem p(random, routes, WeightType::kBFloat16, {72, 64, false});
  check_hidden(p, "hidden");
  check_output(p, true, true, "output");
}

void there_may_be_thousands_of_experts() {
  Random random(6);
  std::vector<int64_t> counts(2048);
  for (int i = 0; i < 30; ++i) counts[static_cast<size_t>(random.below(2048))] += 2;
  counts[0] = counts[2047] = 129;
  const Routes routes = shuffled(random, counts, 1);
  Problem p(random, routes, WeightType::kBFloat16, {8, 8, false});
  check_hidden(p, "hidden");
}

// Both stages together, with every activation.
void a_layer_is_the_references(WeightType type, Activation activation, bool is_gated) {
  Random random(7);
  Layer layer = make_layer(random, {type, 0}, {3, 72, 160, 90, is_gated}, false);
  const Typed x = as_type(type, layer.x);
  layer.call.x = x.bits.data();
  layer.call.x_type = type;
  layer.call.activation = activation;
  std::vector<int32_t> expert(layer.expert.begin(), layer.expert.end());
  const Routes routes(expert, 3);
  const DeviceStack wi(layer.wi), wo(layer.wo);
  const DeviceArray<char> device_x(x.bits);
  const DeviceArray<float> gate(layer.gate);
  const auto expected = reference::moe(layer.call);
  in_every_order(9, layer.what, [&] {
    const DeviceArray<char> hidden(90 * 160 * 2);
    const DeviceArray<float> y(90 * 72);
    GroupedProduct call{};
    call.groups = {routes.device_tokens.data(), routes.device_first.data()};
    call.stage = Stage::kHidden;
    call.x = device_x.data();
    call.x_type = call.y_type = type;
    call.tokens = 90;
    call.weight = wi.weight;
    call.y = hidden.data();
    call.activation = activation;
    call.is_gated = is_gated;
    cuda::multiply_wgmma({}, call);
    call.stage = Stage::kOutput;
    call.x = hidden.data();
    call.weight = wo.weight;
    call.y = y.data();
    call.y_type = WeightType::kFloat32;
    call.gate = gate.data();
    cuda::multiply_wgmma({}, call);
    expect_near(y.values(), expected, type == WeightType::kFloat16 ? 5e-4 : 3e-3, "y");
  });
}

void layers_are_the_references() {
  for (Activation activation : kActivations) {
    for (bool is_gated : {false, true}) {
      a_layer_is_the_references(WeightType::kBFloat16, activation, is_gated);
    }
  }
  a_layer_is_the_references(WeightType::kFloat16, Activation::kRelu, false);
  a_layer_is_the_references(WeightType::kFloat16, Activation::kGelu, true);
}

void wrong_arguments_are_refused() {
  Random random(8);
  const Routes routes = shuffled(random, {5}, 0);
  Problem p(random, routes, WeightType::kBFloat16, {16, 16, false});
  p.call.stage = Stage::kHidden;
  p.call.y_type = WeightType::kBFloat16;
  const auto refused = [&](const std::vector<std::string>& parts, const auto& change) {
    GroupedProduct call = p.call;
    change(call);
    expect_refused(parts, [&] { cuda::multiply_wgmma({}, call); });
  };
  refused({"weight", "type 3"}, [](auto& a) { a.weight.type = WeightType::kInt8; });
  refused({"x", "type 1", "weight's, 2"}, [](auto& a) { a.x_type = WeightType::kFloat16; });
  refused({"y", "type 0", "expected 2"}, [](auto& a) { a.y_type = WeightType::kFloat32; });
  refused({"y", "type 2", "expected 0"}, [](auto& a) { a.stage = Stage::kOutput; });
  refused({"20 columns", "expected 8"}, [](auto& a) { a.weight.columns = 20; });
  refused({"20 rows", "expected 8"}, [](auto& a) { a.weight.rows = 20; });
  refused({"24 rows", "expected 16"}, [](auto& a) { a.weight.rows = 24, a.is_gated = true; });
  refused({"2049 experts", "2048"}, [](auto& a) { a.weight.count = 2049; });
  refused({"-1 tokens"}, [](auto& a) { a.tokens = -1; });
}

void no_tokens_are_no_work() {
  GroupedProduct call{};
  call.stage = Stage::kOutput;
  call.x_type = call.weight.type = WeightType::kBFloat16;
  call.y_type = WeightType::kFloat32;
  call.weight.rows = call.weight.columns = 8;
  cuda::multiply_wgmma({}, call);
}

}  // namespace

int main() {
  if (!cuda::has_wgmma()) {
    std::cout << "skipped: this device or build has no wgmma\n";
    return 0;
  }
  return run_tests({
      {"hidden values are exact", hidden_values_are_exact},
      {"gated hidden values are exact", gated_hidden_values_are_exact},
      {"outputs go to their tokens", outputs_go_to_their_tokens},
      {"tiles end where experts do", tiles_end_where_experts_do},
      {"every token may be dropped", every_token_may_be_dropped},
      {"there may be thousands of experts", there_may_be_thousands_of_experts},
      {"layers are the reference's", layers_are_the_references},
      {"wrong arguments are refused", wrong_arguments_are_refused},
      {"no tokens are no work", no_tokens_are_no_work},
  });
}
