// y = act(n @ weight^T) for the rows of a decoder step; n = x or its RMS norm. One launch.
#include "checks.h"
#include "vectors.h"

namespace switch_ops::cuda {
namespace {

void check(const switch_cuda_linear& a) {
  const Weight weight = weight_of(a.weight);
  Checks checks("linear");
  checks.float_type(static_cast<WeightType>(a.x_type), "x_type");
  checks.float_type(static_cast<WeightType>(a.y_type), "y_type");
  if (a.norm) {
    checks.float_type(static_cast<WeightType>(a.normed_type), "normed_type");
    checks.require(a.x_type == SWITCH_CUDA_FLOAT32, "x_type is " + std::to_string(a.x_type),
                   "0 (float32) with a norm");
    checks.array(a.norm, "norm", 16);
  }
  checks.weight(weight, "weight");
  checks.weight_arrays(weight, "weight");
  checks.require(!a.is_gated || weight.rows % 2 == 0,
                 "weight has " + std::to_string(weight.rows) + " rows", "an even number if gated");
  checks.require(!a.accumulate || a.y_type == SWITCH_CUDA_FLOAT32,
                 "y_type is " + std::to_string(a.y_type), "0 (float32) to add to it");
  checks.require(a.activation >= SWITCH_CUDA_NO_ACTIVATION && a.activation <= SWITCH_CUDA_SILU,
                 "activation is " + std::to_string(a.activation), "-1 to 3");
  checks.require(a.tokens >= 0 && a.tokens <= 65535 * kFewTokens,
                 std::to_string(a.tokens) + " tokens", "0 to 1048560");
  if (a.tokens > 0) {
    checks.array(a.x, "x", 16);
    checks.array(a.y, "y", 16);
  }
  checks.finish();
}

}  // namespace

void linear(const Stream& stream, const switch_cuda_linear& a) {
  check(a);
  VectorProduct product;
  product.x = a.x;
  product.x_type = static_cast<WeightType>(a.x_type);
  product.norm = a.norm;
  product.normed_type = static_cast<WeightType>(a.normed_type);
  product.epsilon = a.epsilon;
  product.tokens = a.tokens;
  product.weight = weight_of(a.weight);
  product.routes_are_ready = true;  // there are none
  product.y = a.y;
  product.y_type = static_cast<WeightType>(a.y_type);
  product.accumulate = a.accumulate != 0;
  product.has_activation = a.activation != SWITCH_CUDA_NO_ACTIVATION;
  product.activation = static_cast<Activation>(a.activation);
  product.is_gated = a.is_gated != 0;
  multiply_vectors(stream, product);
}

}  // namespace switch_ops::cuda
