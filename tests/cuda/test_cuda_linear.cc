// The product of a decoder step, with and without the norm before it.
#include "cuda/switch_cuda.h"
#include "device_array.h"
#include "moe_cases.h"

using namespace switch_tests;
namespace reference = switch_ops::reference;

namespace {

const std::vector<WeightType> kFloats = {WeightType::kFloat32, WeightType::kFloat16,
                                         WeightType::kBFloat16};
constexpr float kEpsilon = 1e-6f;

struct Case {
  Format format;
  WeightType x_type;
  int64_t tokens, rows, columns;
  bool has_norm;
  WeightType normed_type;
};

std::string name(const Case& c) {
  return c.format.name() + " [" + show(c.rows) + ", " + show(c.columns) + "], " + show(c.tokens) +
         " tokens, x " + Format{c.x_type, 0}.name() +
         (c.has_norm ? ", normed " + Format{c.normed_type, 0}.name() : "");
}

// Rows as the product sees them: x, or its norm rounded.
Array<float> seen_rows(const Case& c, const Array<float>& x, const Array<float>& norm) {
  if (!c.has_norm) return as_type(c.x_type, x).values;
  const Array<float> none = [&] {
    Array<float> zeros(x.size());
    std::fill(zeros.begin(), zeros.end(), 0.0f);
    return zeros;
  }();
  const auto normed = reference::norm(
      {{x.data(), none.data(), norm.data(), kEpsilon, c.columns, nullptr, nullptr}, c.tokens});
  Array<float> rows(x.size());
  for (int64_t i = 0; i < x.size(); ++i) {
    rows[i] = static_cast<float>(
        reference::round_to(c.normed_type, normed.normed[static_cast<size_t>(i)]));
  }
  return rows;
}

void check(Random& random, const Case& c, WeightType y_type, bool accumulate) {
  const Stack stack = random_stack(random, c.format, {c.rows, c.columns});
  const DeviceStack weight(stack);
  const Array<float> x = random.normals(c.tokens * c.columns, 3);
  const Array<float> norm = random.normals(c.columns);
  const DeviceArray<char> device_x(as_type(c.x_type, x).bits);
  const DeviceArray<float> device_norm(norm);
  const Array<float> rows = seen_rows(c, x, norm);
  auto expected = reference::linear(rows.data(), c.tokens, stack.weight);
  const Array<float> before = random.normals(c.tokens * c.rows);
  for (size_t i = 0; accumulate && i < expected.size(); ++i) {
    expected[i] += before[static_cast<int64_t>(i)];
  }

  switch_cuda_linear call{};
  call.x = device_x.data();
  call.x_type = static_cast<int32_t>(c.x_type);
  call.norm = c.has_norm ? device_norm.data() : nullptr;
  call.normed_type = static_cast<int32_t>(c.normed_type);
  call.epsilon = kEpsilon;
  call.tokens = c.tokens;
  call.weight = {weight.weight.data,
                 weight.weight.scale,
                 static_cast<int32_t>(c.format.type),
                 static_cast<int32_t>(c.format.block),
                 1,
                 c.rows,
                 c.columns};
  call.activation = SWITCH_CUDA_NO_ACTIVATION;
  call.accumulate = accumulate;
  call.y_type = static_cast<int32_t>(y_type);
  // A normed value beside the middle of two numbers may be rounded the other way.
  const bool rounds = c.has_norm && (c.format.quantised() || c.normed_type != WeightType::kFloat32);
  double tolerance = rounds ? 5e-3 : kTolerance;
  if (y_type != WeightType::kFloat32) tolerance = 8e-3;
  in_every_order(8, name(c), [&] {
    DeviceArray<char> y(c.tokens * c.rows * (y_type == WeightType::kFloat32 ? 4 : 2));
    if (accumulate) y = DeviceArray<char>(as_type(WeightType::kFloat32, before).bits);
    call.y = y.data();
    expect_equal(switch_cuda_linear_run(nullptr, &call), 0,
                 std::string("status (") + switch_cuda_last_error() + ")");
    expect_near(from_type(y_type, y.values()), expected, tolerance, "y");
  });
}

void every_type_with_any_number_of_rows() {
  Random random(91);
  size_t turn = 0;
  for (const Format& format : formats()) {
    for (WeightType x_type : kFloats) {
      for (int64_t tokens : {1, 7, 16, 18}) {
        const int64_t columns = std::vector<int64_t>{32, 160, 1088}[turn % 3];
        const int64_t rows = std::vector<int64_t>{1, 12, 70}[turn / 2 % 3];
        check(random, {format, x_type, tokens, rows, columns, false, x_type}, kFloats[turn % 3],
              false);
        ++turn;
      }
    }
  }
}

void the_norm_before_it() {
  Random random(92);
  for (const Format& format : formats()) {
    for (WeightType normed_type : kFloats) {
      for (int64_t tokens : {1, 3, 9}) {
        check(random, {format, WeightType::kFloat32, tokens, 20, 288, true, normed_type},
              WeightType::kFloat32, tokens == 3);
      }
    }
  }
}

// A device with little shared memory takes the rows in turns.
void more_rows_than_shared_memory_has_room_for() {
  Random random(93);
  check(random, {{WeightType::kFloat32, 0}, WeightType::kFloat32, 16, 9, 4096, false, {}},
        WeightType::kFloat32, false);
  check(random, {{WeightType::kInt8, 64}, WeightType::kFloat32, 16, 9, 16384, false, {}},
        WeightType::kFloat32, true);
}

void wrong_arguments_are_refused() {
  switch_cuda_linear call{};
  call.x_type = SWITCH_CUDA_BFLOAT16;
  call.norm = reinterpret_cast<const float*>(16);
  call.weight = {reinterpret_cast<const void*>(16), nullptr, SWITCH_CUDA_INT8, 0, 1, 4, 40};
  call.y_type = SWITCH_CUDA_FLOAT16;
  call.accumulate = 1;
  call.tokens = 1;
  expect_equal(switch_cuda_linear_run(nullptr, &call), -1, "status");
  const std::string error = switch_cuda_last_error();
  for (const char* part : {"with a norm", "40 columns", "the scale of weight is null",
                           "to add to it", "x is null", "y is null"}) {
    expect(error.find(part) != std::string::npos, std::string(part) + " in " + error);
  }
}

}  // namespace

int main() {
  return run_tests({
      {"every type with any number of rows", every_type_with_any_number_of_rows},
      {"the norm before it", the_norm_before_it},
      {"more rows than there is room for", more_rows_than_shared_memory_has_room_for},
      {"wrong arguments are refused", wrong_arguments_are_refused},
  });
}
