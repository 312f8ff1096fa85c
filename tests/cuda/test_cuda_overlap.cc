// Kernels that start before the ones before them have ended: layers one after another that share
// every buffer, as the layers of a decoder do.
#include "cuda/switch_cuda.h"
#include "device_array.h"
#include "moe_cases.h"

using namespace switch_tests;
namespace reference = switch_ops::reference;

namespace {

constexpr float kEpsilon = 1e-6f;
constexpr int64_t kColumns = 64, kHidden = 96, kExperts = 4;

// A router and its experts, here and on the device.
struct Sparse {
  Array<float> x, norm, classifier;
  Stack wi, wo;
  DeviceArray<float> device_x, device_norm, device_classifier, y;
  DeviceStack device_wi, device_wo;

  Sparse(Random& random, const Format& format, int64_t tokens)
      : x(random.normals(tokens * kColumns)),
        norm(random.normals(kColumns)),
        classifier(random.normals(kExperts * kColumns)),
        wi(random_stack(random, format, {kHidden, kColumns, kExperts})),
        wo(random_stack(random, format, {kColumns, kHidden, kExperts})),
        device_x(x),
        device_norm(norm),
        device_classifier(classifier),
        y(tokens * kColumns),
        device_wi(wi),
        device_wo(wo) {}
};

// What all layers write to.
struct Buffers {
  DeviceArray<float> normed, gate;
  DeviceArray<int32_t> expert;
  DeviceArray<char> workspace{0};

  explicit Buffers(int64_t tokens) : normed(tokens * kColumns), gate(tokens), expert(tokens) {}
};

void run(const Sparse& layer, Buffers& buffers, int64_t tokens) {
  switch_cuda_router router{};
  router.x = layer.device_x.data();
  router.norm = layer.device_norm.data();
  router.epsilon = kEpsilon;
  router.classifier = layer.device_classifier.data();
  router.batch = 1;
  router.tokens = tokens;
  router.columns = kColumns;
  router.experts = kExperts;
  router.capacity = -1;
  router.normed = buffers.normed.data();
  router.expert = buffers.expert.data();
  router.gate = buffers.gate.data();
  switch_cuda_moe moe{};
  moe.x = buffers.normed.data();
  moe.tokens = tokens;
  moe.expert = buffers.expert.data();
  moe.gate = buffers.gate.data();
  moe.wi = as_c(layer.device_wi.weight);
  moe.wo = as_c(layer.device_wo.weight);
  moe.y = layer.y.data();
  moe.workspace_bytes = switch_cuda_moe_workspace(&moe);
  if (buffers.workspace.size() == 0) {
    buffers.workspace = DeviceArray<char>(static_cast<int64_t>(moe.workspace_bytes));
  }
  moe.workspace = buffers.workspace.data();
  const switch_cuda_stream stream{nullptr, 1};
  expect_equal(switch_cuda_router_run(&stream, &router), 0, "status of the router");
  expect_equal(switch_cuda_moe_run(&stream, &moe), 0, "status of the layer");
}

std::vector<double> expected_of(const Sparse& layer, int64_t tokens) {
  Array<float> none(tokens * kColumns), normed(tokens * kColumns), gate(tokens);
  std::fill(none.begin(), none.end(), 0.0f);
  const auto rows = reference::norm(
      {{layer.x.data(), none.data(), layer.norm.data(), kEpsilon, kColumns, nullptr, nullptr},
       tokens});
  for (int64_t i = 0; i < normed.size(); ++i) {
    normed[i] = static_cast<float>(rows.normed[static_cast<size_t>(i)]);
  }
  const auto routes = reference::route({normed.data(), 1, tokens, kColumns, kExperts,
                                        layer.classifier.data(), nullptr, -1, nullptr, nullptr});
  for (int64_t t = 0; t < tokens; ++t) {
    gate[t] = static_cast<float>(routes.gate[static_cast<size_t>(t)]);
  }
  return reference::moe({normed.data(), tokens, routes.expert.data(), gate.data(), layer.wi.weight,
                         layer.wo.weight, Activation::kRelu, Dropped::kZero, nullptr});
}

void layers_that_share_their_buffers() {
  Random random(61);
  for (const Format& format : {Format{WeightType::kFloat32, 0}, Format{WeightType::kInt8, 0},
                               Format{WeightType::kInt4, 32}}) {
    for (int64_t tokens : {3, 21}) {
      std::vector<Sparse> layers;
      for (int i = 0; i < 3; ++i) layers.emplace_back(random, format, tokens);
      in_every_order(8, format.name() + ", " + show(tokens) + " tokens", [&] {
        Buffers buffers(tokens);
        // The first one makes the workspace: nothing waits for the device after it.
        run(layers[0], buffers, tokens);
        for (Sparse& layer : layers) layer.y = DeviceArray<float>(tokens * kColumns);
        for (Sparse& layer : layers) run(layer, buffers, tokens);
        for (const Sparse& layer : layers) {
          expect_near(layer.y.values(), expected_of(layer, tokens),
                      format.quantised() ? kRoundedTwice : kTolerance, "y");
        }
      });
    }
  }
}

}  // namespace

int main() {
  return run_tests({{"layers that share their buffers", layers_that_share_their_buffers}});
}
