// multiply_tiles: each family of types with each height of tiles, both stages, every kind of edge.
#include <algorithm>
#include <numeric>

#include "device_array.h"
#include "moe_cases.h"
#include "tiles.h"

using namespace switch_tests;
using switch_ops::is_quantised;
using switch_ops::cuda::Device;
using switch_ops::cuda::GroupedProduct;
using switch_ops::cuda::Stage;

namespace {

namespace cuda = switch_ops::cuda;
namespace reference = switch_ops::reference;
using T = WeightType;

// Few processors, so that blocks take several tiles; small ones of compute capability 8.6 have
// room for two stages of the largest tiles.
const Device kSmall{8, 6, 3, 99 * 1024};
Device large() { return {9, 0, 2, cuda::current_device().shared_bytes}; }

double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::kRelu: return std::max(x, 0.0);
    case Activation::kGelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kSilu: return x / (1 + std::exp(-x));
  }
  return NAN;
}

// Tokens by expert, in the order of tokens; -1: dropped.
struct Routes {
  std::vector<int32_t> expert, tokens, first;
  DeviceArray<int32_t> device_tokens, device_first;

  // `counts` tokens of each expert and `dropped` of none, in any order.
  Routes(Random& random, const std::vector<int64_t>& counts, int64_t dropped)
      : expert(static_cast<size_t>(dropped), -1) {
    for (size_t e = 0; e < counts.size(); ++e) {
      expert.insert(expert.end(), static_cast<size_t>(counts[e]), static_cast<int32_t>(e));
    }
    for (int64_t i = size(); i > 1; --i) {
      std::swap(expert[static_cast<size_t>(i - 1)], expert[static_cast<size_t>(random.below(i))]);
    }
    for (int32_t e = 0; e < static_cast<int32_t>(counts.size()); ++e) {
      first.push_back(static_cast<int32_t>(tokens.size()));
      for (int32_t t = 0; t < static_cast<int32_t>(size()); ++t) {
        if (expert[static_cast<size_t>(t)] == e) tokens.push_back(t);
      }
    }
    first.push_back(static_cast<int32_t>(tokens.size()));
    Array<int32_t> places(size()), starts(static_cast<int64_t>(first.size()));
    std::fill(places.begin(), places.end(), 1 << 30);  // of dropped tokens: not to be read
    std::copy(tokens.begin(), tokens.end(), places.begin());
    std::copy(first.begin(), first.end(), starts.begin());
    device_tokens = DeviceArray<int32_t>(places);
    device_first = DeviceArray<int32_t>(starts);
  }
  int64_t size() const { return static_cast<int64_t>(expert.size()); }
  int64_t experts() const { return static_cast<int64_t>(first.size()) - 1; }
};

// A product and everything that it points to. `rows` are those of y; twice as many where gated.
struct Problem {
  Routes routes;
  Stack stack;
  DeviceStack weight;
  Array<float> x;  // [tokens, columns] as the kernel has it
  DeviceArray<char> device_x;
  DeviceArray<float> x_scale;
  GroupedProduct call{};
  int64_t outputs;

  Problem(Random& random, Routes r, const Format& format, int64_t rows, int64_t columns,
          bool is_gated = false)
      : routes(std::move(r)),
        stack(
            random_stack(random, format, {is_gated ? 2 * rows : rows, columns, routes.experts()})),
        weight(stack),
        x(random.normals(routes.size() * columns)),
        outputs(rows) {
    if (format.quantised()) {
      quantise(columns);
    } else {
      Typed typed = as_type(format.type, x);
      device_x = DeviceArray<char>(typed.bits);
      x = std::move(typed.values);
    }
    call.x = device_x.data();
    call.x_type = format.quantised() ? T::kInt8 : format.type;
    call.x_scale = x_scale.data();
    call.tokens = routes.size();
    call.groups = {routes.device_tokens.data(), routes.device_first.data()};
    call.weight = weight.weight;
    call.is_gated = is_gated;
  }

  // The reference quantises `x` by itself.
  void quantise(int64_t columns) {
    Array<char> bytes(x.size());
    Array<float> scales(routes.size());
    for (int64_t t = 0; t < routes.size(); ++t) {
      const auto q = reference::quantise(
          reference::Values(x.data() + t * columns, x.data() + (t + 1) * columns));
      scales[t] = static_cast<float>(q.scale);
      for (int64_t i = 0; i < columns; ++i) {
        bytes[t * columns + i] = static_cast<char>(q.values[static_cast<size_t>(i)]);
      }
    }
    device_x = DeviceArray<char>(bytes);
    x_scale = DeviceArray<float>(scales);
  }

  // Row `row` of x times the matrix of expert `e`.
  reference::Values product(int64_t row, int64_t e) const {
    return reference::linear(x.data() + row * stack.weight.columns, 1, stack.weight.slice(e));
  }

  // For every place: the place, its token, its expert.
  template <typename Body>
  void for_places(const Body& body) const {
    for (size_t place = 0; place < routes.tokens.size(); ++place) {
      const int32_t token = routes.tokens[place];
      body(static_cast<int64_t>(place), token, routes.expert[static_cast<size_t>(token)]);
    }
  }
};

// Values in rows; NaN where nothing may be written.
void expect_rows(const Array<float>& found, const std::vector<double>& expected, double tolerance) {
  Array<float> written = Array<float>(found.size());
  std::vector<double> values = expected;
  for (int64_t i = 0; i < found.size(); ++i) {
    double& value = values[static_cast<size_t>(i)];
    written[i] = found[i];
    if (!std::isnan(value)) continue;
    expect(std::isnan(found[i]), "y[" + show(i) + "] is " + show(found[i]) + ", expected none");
    value = written[i] = 0;
  }
  expect_near(written, values, tolerance, "y");
}

double tolerance_of(T type) {
  return kTolerance + (type == T::kBFloat16 ? 0x1p-8 : type == T::kFloat16 ? 0x1p-11 : 0);
}

// The plan is part of the case: `height` of tiles that is expected.
void check_hidden(Problem& p, const Device& device, int height, T y_type, const std::string& what) {
  std::vector<double> expected(static_cast<size_t>(p.routes.size() * p.outputs), NAN);
  p.for_places([&](int64_t place, int64_t token, int64_t e) {
    const auto sums = p.product(token, e);
    for (int64_t o = 0; o < p.outputs; ++o) {
      const auto at = static_cast<size_t>(o);
      const double factor = p.call.is_gated ? sums[at + static_cast<size_t>(p.outputs)] : 1;
      expected[static_cast<size_t>(place * p.outputs + o)] =
          activated(p.call.activation, sums[at]) * factor;
    }
  });
  p.call.stage = Stage::kHidden;
  p.call.y_type = y_type;
  expect_equal(cuda::tiles::plan_tiles(device, p.call).height, height, what + ": height");
  in_every_order(8, what, [&] {
    DeviceArray<char> y(p.routes.size() * p.outputs * (y_type == T::kFloat32 ? 4 : 2));
    p.call.y = y.data();
    cuda::tiles::multiply(device, {}, p.call);
    expect_rows(from_type(y_type, y.values()), expected, tolerance_of(y_type));
  });
}

struct Adding {
  bool has_gate = true, accumulates = false;
};

void check_output(Random& random, Problem& p, const Device& device, int height, Adding adding,
                  const std::string& what) {
  const int64_t tokens = p.routes.size();
  Array<float> gate(tokens), old(tokens * p.outputs);
  for (float& g : gate) g = 0.5f + 0.25f * random.uniform();
  if (adding.accumulates) old = random.normals(tokens * p.outputs);
  std::vector<double> expected(old.begin(), old.end());
  p.for_places([&](int64_t place, int64_t token, int64_t e) {
    const auto sums = p.product(place, e);
    for (int64_t o = 0; o < p.outputs; ++o) {
      double& y = expected[static_cast<size_t>(token * p.outputs + o)];
      y = (adding.accumulates ? y : 0) +
          (adding.has_gate ? gate[token] : 1.0f) * sums[static_cast<size_t>(o)];
    }
  });
  const DeviceArray<float> device_gate(gate);
  p.call.stage = Stage::kOutput;
  p.call.y_type = T::kFloat32;
  p.call.gate = adding.has_gate ? device_gate.data() : nullptr;
  p.call.accumulate = adding.accumulates;
  expect_equal(cuda::tiles::plan_tiles(device, p.call).height, height, what + ": height");
  in_every_order(8, what, [&] {
    DeviceArray<float> y(old);
    p.call.y = y.data();
    cuda::tiles::multiply(device, {}, p.call);
    expect_rows(y.values(), expected, kTolerance);
  });
}

// One of each family; the others differ in the loading of scales alone.
const std::vector<Format> kFamilies = {
    {T::kBFloat16, 0}, {T::kFloat16, 0}, {T::kInt8, 0}, {T::kInt8, 64}, {T::kInt4, 32}};

// Columns that end in the middle of a step.
int64_t columns_of(const Format& format, int64_t steps) {
  if (!format.quantised()) return 64 * steps + 24;
  return 128 * steps + (format.type == T::kInt4 ? 32 : 48);
}

struct Height {
  int height;
  std::vector<int64_t> counts;
  int64_t rows, steps;
};
// Experts with no tokens, with one, with a whole tile and with one token more.
const std::vector<Height> kHeights = {
    {16, {0, 17, 1, 0, 16}, 130, 4}, {64, {65, 0, 3, 64}, 75, 2}, {128, {129, 5}, 161, 2}};

void every_family_has_hidden_values() {
  Random random(1);
  for (const Format& format : kFamilies) {
    for (const Height& h : kHeights) {
      Problem p(random, Routes(random, h.counts, 5), format, h.rows, columns_of(format, h.steps));
      check_hidden(p, kSmall, h.height, T::kFloat32, format.name() + ", height " + show(h.height));
    }
  }
}

void every_family_has_outputs() {
  Random random(2);
  for (const Format& format : kFamilies) {
    for (const Height& h : kHeights) {
      Problem p(random, Routes(random, h.counts, 5), format, h.rows + 1, columns_of(format, 1));
      check_output(random, p, large(), h.height, {}, format.name() + ", height " + show(h.height));
    }
  }
}

void gated_rows_are_multiplied() {
  Random random(3);
  for (const Format& format : kFamilies) {
    for (const Height& h : kHeights) {
      Problem p(random, Routes(random, h.counts, 2), format, 75, columns_of(format, 1), true);
      p.call.activation = Activation::kGeluTanh;
      check_hidden(p, kSmall, h.height, T::kFloat32, format.name() + ", height " + show(h.height));
    }
  }
}

void blocks_of_columns_have_their_own_scales() {
  Random random(4);
  for (const Format& format : formats()) {
    if (!format.quantised()) continue;
    for (int64_t columns : {32, 96, 128, 288, 672}) {
      Problem p(random, Routes(random, {9, 0, 3}, 1), format, 21, columns);
      check_output(random, p, kSmall, 16, {}, format.name() + ", " + show(columns) + " columns");
    }
  }
}

void hidden_values_are_rounded_and_activated() {
  Random random(5);
  for (Activation activation : kActivations) {
    for (T type : {T::kBFloat16, T::kFloat16}) {
      for (int64_t rows : {10, 11}) {  // in pairs, and one by one
        for (const Format& format : {Format{type, 0}, Format{T::kInt8, 0}}) {
          Problem p(random, Routes(random, {2, 5}, 1), format, rows, 48);
          p.call.activation = activation;
          check_hidden(p, kSmall, 16, type, format.name() + ", " + show(rows) + " rows");
        }
      }
    }
  }
}

void outputs_are_added_to_y() {
  Random random(6);
  for (int64_t rows : {70, 71}) {
    for (bool has_gate : {false, true}) {
      Problem p(random, Routes(random, {3, 0, 18}, 4), {T::kFloat16, 0}, rows, 72);
      check_output(random, p, kSmall, 16, {has_gate, true}, show(rows) + " rows");
    }
  }
}

void any_number_of_experts() {
  Random random(7);
  for (int64_t experts : {1, 128, 129, 700}) {
    std::vector<int64_t> counts(static_cast<size_t>(experts));
    for (int i = 0; i < 8; ++i) ++counts[static_cast<size_t>(random.below(experts))];
    counts.back() += 1;
    Problem p(random, Routes(random, counts, 2), {T::kBFloat16, 0}, 66, 16);
    check_output(random, p, kSmall, 16, {}, show(experts) + " experts");
  }
}

// More token tiles than a group of the schedule.
void one_expert_has_all_tokens() {
  Random random(8);
  Problem small(random, Routes(random, {0, 203, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0),
                {T::kBFloat16, 0}, 140, 32);
  check_output(random, small, kSmall, 16, {}, "one of many");
  Problem large(random, Routes(random, {1200}, 0), {T::kInt8, 0}, 136, 32);
  check_output(random, large, kSmall, 128, {}, "the only one");
}

void nothing_to_do_writes_nothing() {
  Random random(9);
  for (const auto& [kept, dropped] : {std::pair<int64_t, int64_t>{0, 7}, {0, 0}}) {
    Problem p(random, Routes(random, {kept, kept}, dropped), {T::kBFloat16, 0}, 20, 32);
    check_output(random, p, kSmall, 16, {}, show(dropped) + " dropped tokens");
  }
}

// Each device's shared memory is enough, and stages are at least two.
void every_shape_fits_every_device() {
  GroupedProduct a{};
  a.y_type = T::kFloat32;
  for (const int kilobytes : {99, 163, 227}) {
    for (const Format& format : formats()) {
      for (const int64_t tokens : {1, 40, 500, 5000, 100000}) {
        if (format.type == T::kFloat32) continue;
        a.tokens = tokens;
        a.x_type = format.quantised() ? T::kInt8 : format.type;
        a.weight = {format.type, nullptr, nullptr, 3072, 768, format.block, 128};
        const auto plan = cuda::tiles::plan_tiles({8, 0, 108, kilobytes * 1024}, a);
        expect(plan.stages >= 2 && plan.stages <= cuda::tiles::kMostStages, "stages");
        expect(plan.shared_bytes <= static_cast<size_t>(kilobytes) * 1024, "shared memory");
        expect(plan.blocks > 0 && plan.blocks <= 4 * 108, "blocks");
        const int height = tokens < 2000 ? 16 : tokens < 10000 ? 64 : 128;
        expect_equal(plan.height, height, show(tokens) + " tokens: height");
      }
    }
  }
}

void wrong_products_are_refused() {
  Random random(10);
  Problem p(random, Routes(random, {3, 2}, 0), {T::kInt8, 32}, 16, 64);
  DeviceArray<float> y(5 * 16);
  p.call.y = y.data();
  p.call.y_type = T::kFloat32;
  const auto refused = [&](const std::vector<std::string>& parts, const auto& change,
                           Device device = kSmall) {
    GroupedProduct own = p.call;
    change(own);
    expect_refused(parts, [&] { cuda::tiles::multiply(device, {}, own); });
  };
  const auto same = [](GroupedProduct&) {};
  refused({"capability 7.5", "8.0"}, same, Device{7, 5, 3, 64 * 1024});
  refused({"2 experts", "shared memory"}, same, Device{8, 0, 3, 8 * 1024});
  refused({"x is bfloat16", "int8"}, [](auto& a) { a.x_type = T::kBFloat16; });
  refused({"weight is float32"}, [](auto& a) { a.weight.type = T::kFloat32; });
  refused({"y is int8", "float"}, [](auto& a) { a.y_type = T::kInt8; });
  refused({"y is float16", "float32"}, [](auto& a) {
    a.stage = Stage::kOutput;
    a.y_type = T::kFloat16;
  });
  refused({"40 columns of int8", "16 bytes"}, [](auto& a) { a.weight.columns = 40; });
  refused({"262144 columns", "131072"}, [](auto& a) { a.weight.columns = 1 << 18; });
  for (int64_t block : {16, 48}) {
    refused({"block is " + show(block)}, [=](auto& a) { a.weight.block = block; });
  }
  refused({"15 rows", "even"}, [](auto& a) { a.weight.rows = 15, a.is_gated = true; });
  refused({"0 experts"}, [](auto& a) { a.weight.count = 0; });
  refused({"-1 tokens"}, [](auto& a) { a.tokens = -1; });
  refused({"x is null"}, [](auto& a) { a.x = nullptr; });
  refused({"x_scale is null"}, [](auto& a) { a.x_scale = nullptr; });
  refused({"scale of weight is null"}, [](auto& a) { a.weight.scale = nullptr; });
  refused({"groups.first is null"}, [](auto& a) { a.groups.first = nullptr; });
  refused({"y is at a wrong address", "16"}, [](auto& a) { a.y = static_cast<float*>(a.y) + 1; });
}

}  // namespace

int main() {
  return run_tests({
      {"every family has hidden values", every_family_has_hidden_values},
      {"every family has outputs", every_family_has_outputs},
      {"gated rows are multiplied", gated_rows_are_multiplied},
      {"blocks of columns have their own scales", blocks_of_columns_have_their_own_scales},
      {"hidden values are rounded and activated", hidden_values_are_rounded_and_activated},
      {"outputs are added to y", outputs_are_added_to_y},
      {"any number of experts", any_number_of_experts},
      {"one expert has all tokens", one_expert_has_all_tokens},
      {"nothing to do writes nothing", nothing_to_do_writes_nothing},
      {"every shape fits every device", every_shape_fits_every_device},
      {"wrong products are refused", wrong_products_are_refused},
  });
}
