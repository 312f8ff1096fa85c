// SwitchMoE and the linear operator of a decoder step through the C functions, by every way that a
// call can take: few tokens, vectors, tiles, quantised tiles, wgmma.
#include <algorithm>

#include "cuda/products.h"
#include "cuda/switch_cuda.h"
#include "device_array.h"
#include "moe_cases.h"

using namespace switch_tests;
namespace reference = switch_ops::reference;

namespace {

const std::vector<WeightType> kFloats = {WeightType::kFloat32, WeightType::kFloat16,
                                         WeightType::kBFloat16};

// How far a result may be from the reference, relative to its largest value. A hidden value beside
// the middle of two numbers of a half type may be rounded the other way: one of its last bits.
double tolerance_of(const Format& format, WeightType x_type, bool exact) {
  if (x_type == WeightType::kBFloat16) return 6e-3;
  if (x_type == WeightType::kFloat16) return 1e-3;
  return format.quantised() && !exact ? kRoundedTwice : kTolerance;
}

struct Device {
  DeviceStack wi, wo;
  DeviceArray<char> x;
  DeviceArray<float> gate, y;
  DeviceArray<int32_t> expert;
  DeviceArray<char> workspace;
  switch_cuda_moe call;
};

// A layer there. `layer.x` becomes what x_type holds of it.
Device on_device(Layer& layer, WeightType x_type) {
  Typed x = as_type(x_type, layer.x);
  layer.x = std::move(x.values);
  layer.call.x = layer.x.data();
  Device d{DeviceStack(layer.wi),
           DeviceStack(layer.wo),
           DeviceArray<char>(x.bits),
           DeviceArray<float>(layer.gate),
           DeviceArray<float>(layer.x.size()),
           DeviceArray<int32_t>(layer.expert),
           DeviceArray<char>(0),
           {}};
  switch_cuda_moe& call = d.call;
  call.x = d.x.data();
  call.x_type = static_cast<int32_t>(x_type);
  call.activation = static_cast<int32_t>(layer.call.activation);
  call.is_gated = layer.call.is_gated;
  call.dropped = static_cast<int32_t>(layer.call.dropped);
  call.tokens = layer.call.tokens;
  call.expert = layer.call.expert ? d.expert.data() : nullptr;
  call.gate = layer.call.gate ? d.gate.data() : nullptr;
  call.wi = as_c(d.wi.weight);
  call.wo = as_c(d.wo.weight);
  call.y = d.y.data();
  call.workspace_bytes = switch_cuda_moe_workspace(&call);
  expect(call.workspace_bytes > 0, std::string("workspace: ") + switch_cuda_last_error());
  // Its start is aligned, and its end is the end of the array.
  const auto bytes = static_cast<int64_t>(call.workspace_bytes);
  d.workspace = DeviceArray<char>(bytes);
  call.workspace = d.workspace.data();
  return d;
}

// The reference in x_type: float32 copies of what x holds, hidden values rounded.
std::vector<double> expected_of(const Layer& layer, WeightType x_type) {
  Typed x = as_type(x_type, layer.x);
  switch_ops::Moe call = layer.call;
  call.x = x.bits.data();
  call.x_type = x_type;
  return reference::moe(call);
}

void run(const switch_cuda_moe& call) {
  expect_equal(switch_cuda_moe_run(nullptr, &call), 0,
               std::string("status (") + switch_cuda_last_error() + ")");
}

void check(Layer& layer, WeightType x_type, int major, bool exact) {
  Device d = on_device(layer, x_type);
  const auto expected = expected_of(layer, x_type);
  const Format format{layer.wi.weight.type, layer.wi.weight.block};
  const std::string what = layer.what + ", x " + Format{x_type, 0}.name();
  in_every_order(major, what, [&] {
    d.y = DeviceArray<float>(layer.x.size());
    d.call.y = d.y.data();
    run(d.call);
    expect_near(d.y.values(), expected, tolerance_of(format, x_type, exact), "y");
  });
}

// Sizes whose rows are whole multiples of 16 bytes in every format.
struct Size {
  int64_t d_model, d_ff;
};
const std::vector<Size> kAligned = {{32, 64}, {64, 32}, {96, 160}, {160, 96}};

void every_type_of_weight_and_activation_by_every_way() {
  Random random(71);
  size_t turn = 0;
  for (const Format& format : formats()) {
    for (WeightType x_type : kFloats) {
      for (int64_t tokens : {1, 5, 16, 17, 40}) {
        const Size size = kAligned[turn % kAligned.size()];
        const int64_t experts = std::vector<int64_t>{1, 3, 8}[turn % 3];
        Layer layer = make_layer(random, format, {experts, size.d_model, size.d_ff, tokens}, true);
        layer.call.dropped = turn % 2 ? Dropped::kPass : Dropped::kZero;
        for (int32_t& e : layer.expert) e = random.below(5) ? e : -1;
        check(layer, x_type, turn % 2 ? 8 : 9, true);
        ++turn;
      }
    }
  }
}

void every_activation_gated_and_not() {
  Random random(72);
  for (Activation activation : kActivations) {
    for (bool is_gated : {false, true}) {
      for (const Format& format :
           {Format{WeightType::kBFloat16, 0}, Format{WeightType::kInt8, 0},
            Format{WeightType::kInt4, 32}, Format{WeightType::kFloat32, 0}}) {
        for (int64_t tokens : {3, 21}) {
          const WeightType x_type = format.quantised() ? WeightType::kFloat32 : format.type;
          Layer layer = make_layer(random, format, {2, 64, 96, tokens, is_gated}, false);
          layer.call.activation = activation;
          check(layer, x_type, 8, false);
        }
      }
    }
  }
}

void many_tokens_by_wgmma() {
  Random random(73);
  Layer layer = make_layer(random, {WeightType::kBFloat16, 0}, {3, 64, 128, 300}, false);
  for (int32_t& e : layer.expert) e = random.below(10) < 6 ? 0 : random.below(4) ? 2 : -1;
  check(layer, WeightType::kBFloat16, 9, false);
}

void all_tokens_on_one_expert_and_none_at_all() {
  Random random(74);
  for (int64_t tokens : {16, 33}) {
    for (int32_t expert : {0, 6, -1}) {
      Layer layer = make_layer(random, {WeightType::kBFloat16, 0}, {7, 64, 96, tokens}, false);
      std::fill(layer.expert.begin(), layer.expert.end(), expert);
      check(layer, WeightType::kBFloat16, 8, false);
    }
  }
}

void without_routes_and_gates() {
  Random random(75);
  for (int64_t tokens : {2, 30}) {
    Layer layer = make_layer(random, {WeightType::kFloat16, 0}, {2, 64, 96, tokens}, false);
    layer.call.expert = nullptr;
    layer.call.gate = nullptr;
    check(layer, WeightType::kFloat16, 8, false);
  }
}

// Experts that do not exist are dropped tokens: nothing is read for them.
void routes_out_of_range_are_dropped() {
  Random random(76);
  for (int64_t tokens : {4, 20}) {
    Layer layer = make_layer(random, {WeightType::kBFloat16, 0}, {3, 64, 96, tokens}, false);
    layer.expert[1] = -1;
    const auto expected = expected_of(layer, WeightType::kBFloat16);
    for (int32_t wrong : {3, -7, 1 << 30}) {
      layer.expert[1] = wrong;
      Device d = on_device(layer, WeightType::kBFloat16);
      run(d.call);
      expect_near(d.y.values(), expected, 6e-3, "y with expert " + show(wrong));
    }
  }
}

void accumulate_adds_to_what_is_there() {
  Random random(77);
  for (Dropped dropped : {Dropped::kZero, Dropped::kPass}) {
    for (int64_t tokens : {6, 24}) {
      Layer layer = make_layer(random, {WeightType::kFloat32, 0}, {3, 64, 96, tokens}, false);
      layer.call.dropped = dropped;
      layer.expert[2] = -1;
      Device d = on_device(layer, WeightType::kFloat32);
      auto expected = expected_of(layer, WeightType::kFloat32);
      const Array<float> before = random.normals(layer.x.size());
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[static_cast<int64_t>(i)];
      d.y = DeviceArray<float>(before);
      d.call.y = d.y.data();
      d.call.accumulate = 1;
      run(d.call);
      expect_near(d.y.values(), expected, kTolerance, "y");
    }
  }
}

// An infinite hidden value of a dropped token is not there to be multiplied by 0.
void dropped_is_a_select() {
  Random random(78);
  for (int64_t tokens : {4, 20}) {
    Layer layer = make_layer(random, {WeightType::kBFloat16, 0}, {2, 64, 96, tokens}, false);
    layer.expert[0] = -1;
    for (int64_t i = 0; i < 64; ++i) layer.x[i] = std::numeric_limits<float>::infinity();
    Device d = on_device(layer, WeightType::kBFloat16);
    run(d.call);
    const Array<float> y = d.y.values();
    for (int64_t i = 0; i < 64; ++i) expect_equal(y[i], 0.0f, "y of the dropped token");
    expect(std::isfinite(y[64]), "the next one is finite");
  }
}

void the_same_inputs_give_the_same_bits() {
  Random random(79);
  for (int64_t tokens : {9, 70}) {
    Layer layer = make_layer(random, {WeightType::kBFloat16, 0}, {4, 64, 96, tokens}, false);
    Device d = on_device(layer, WeightType::kBFloat16);
    run(d.call);
    const Array<float> first = d.y.values();
    in_every_order(8, "again", [&] {
      d.y = DeviceArray<float>(layer.x.size());
      d.call.y = d.y.data();
      run(d.call);
      expect(!std::memcmp(d.y.values().data(), first.data(), d.y.bytes()), "the same bits");
    });
  }
}

// Against std::stable_sort; the first place is 0, dropped tokens have none.
void sorting_keeps_the_order_of_tokens() {
  Random random(82);
  for (int64_t tokens : {1, 31, 256, 700}) {
    for (int64_t experts : {1, 5, 40}) {
      Layer layer = make_layer(random, {WeightType::kFloat32, 0}, {experts, 4, 4, tokens}, false);
      for (int32_t& e : layer.expert) e = random.below(4) ? e : -1;
      std::vector<int32_t> order;
      for (int32_t t = 0; t < tokens; ++t) {
        if (layer.expert[t] >= 0) order.push_back(t);
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return layer.expert[a] < layer.expert[b]; });
      Device d = on_device(layer, WeightType::kFloat32);
      layer.call.expert = d.expert.data();
      layer.call.y = d.y.data();
      in_every_order(8, layer.what, [&] {
        const DeviceArray<int32_t> places(tokens), first(experts + 1);
        switch_ops::cuda::sort_tokens({}, layer.call, {places.data(), first.data()}, false);
        const Array<int32_t> found = places.values(), starts = first.values();
        for (size_t i = 0; i < order.size(); ++i) {
          expect_equal(found[static_cast<int64_t>(i)], order[i], "token at place " + show(i));
        }
        for (int32_t e = 0; e <= experts; ++e) {
          const auto before = std::count_if(order.begin(), order.end(),
                                            [&](int32_t t) { return layer.expert[t] < e; });
          expect_equal(static_cast<int64_t>(starts[e]), static_cast<int64_t>(before), "first");
        }
      });
    }
  }
}

void nothing_beyond_the_workspace_that_was_asked_for() {
  Random random(80);
  Layer layer = make_layer(random, {WeightType::kInt8, 0}, {2, 64, 96, 20}, false);
  Device d = on_device(layer, WeightType::kFloat32);
  d.call.workspace_bytes -= 1;
  expect_equal(switch_cuda_moe_run(nullptr, &d.call), -1, "status");
  const std::string error = switch_cuda_last_error();
  expect(error.find("workspace has") != std::string::npos, error);
  d.call.tokens = 0;
  expect_equal(switch_cuda_moe_run(nullptr, &d.call), 0, "status without tokens");
}

void wrong_arguments_are_told_all_at_once() {
  Random random(81);
  Layer layer = make_layer(random, {WeightType::kBFloat16, 0}, {2, 64, 96, 3}, false);
  Device d = on_device(layer, WeightType::kBFloat16);
  switch_cuda_moe wrong = d.call;
  wrong.x_type = SWITCH_CUDA_INT8;
  wrong.wi.columns = 60;
  wrong.wo.block = 33;
  wrong.activation = 9;
  expect_equal(switch_cuda_moe_run(nullptr, &wrong), -1, "status");
  const std::string error = switch_cuda_last_error();
  for (const char* part :
       {"x_type is 3", "60 columns", "blocks of 33", "activation is 9", "d_ff"}) {
    expect(error.find(part) != std::string::npos, std::string(part) + " in " + error);
  }
  expect_equal(switch_cuda_moe_workspace(&wrong), size_t{0}, "workspace of a refused call");
  wrong = d.call;
  wrong.x = nullptr;
  wrong.wo.data = static_cast<const char*>(wrong.wo.data) + 8;
  expect_equal(switch_cuda_moe_run(nullptr, &wrong), -1, "status");
  expect(std::string(switch_cuda_last_error()).find("x is null") != std::string::npos, "x");
  expect(std::string(switch_cuda_last_error()).find("wo is at an odd address") != std::string::npos,
         "wo");
}

}  // namespace

int main() {
  return run_tests({
      {"every type of weight by every way", every_type_of_weight_and_activation_by_every_way},
      {"every activation, gated and not", every_activation_gated_and_not},
      {"many tokens by wgmma", many_tokens_by_wgmma},
      {"all tokens on one expert, or on none", all_tokens_on_one_expert_and_none_at_all},
      {"without routes and gates", without_routes_and_gates},
      {"routes out of range are dropped", routes_out_of_range_are_dropped},
      {"accumulate adds to what is there", accumulate_adds_to_what_is_there},
      {"dropped is a select", dropped_is_a_select},
      {"the same inputs give the same bits", the_same_inputs_give_the_same_bits},
      {"sorting keeps the order of tokens", sorting_keeps_the_order_of_tokens},
      {"nothing beyond the workspace", nothing_beyond_the_workspace_that_was_asked_for},
      {"wrong arguments are told all at once", wrong_arguments_are_told_all_at_once},
  });
}
