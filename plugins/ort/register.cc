// What ONNX Runtime looks for in a library of operators.
#include <map>
#include <mutex>

#include "block_ops.h"
#include "switch_ops.h"
#include "weight_ops.h"

namespace switch_ort {
namespace {

// The host keeps the pointer as long as it lives.
template <class Kernel>
void add(const OrtApi* api, OrtCustomOpDomain* domain) {
  static const CustomOp<Kernel> op;
  check(api, api->CustomOpDomain_Add(domain, &op));
}

template <class... Kernels>
OrtCustomOpDomain* make_domain(const OrtApi* api) {
  OrtCustomOpDomain* domain = nullptr;
  check(api, api->CreateCustomOpDomain("ai.switch", &domain));
  (add<Kernels>(api, domain), ...);
  return domain;
}

// One for each copy of ONNX Runtime in the process; sessions refer to it, so that it is never
// freed.
OrtCustomOpDomain* domain_of(const OrtApi* api) {
  static std::mutex mutex;
  static std::map<const OrtApi*, OrtCustomOpDomain*> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  OrtCustomOpDomain*& domain = domains[api];
  if (!domain) {
    domain = make_domain<Embedding, Linear, KeyValue, Mlp, Moe, Norm, Router, SelfAttention,
                         CachedAttention, CrossAttention>(api);
  }
  return domain;
}

}  // namespace
}  // namespace switch_ort

extern "C" SWITCH_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                   const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) return nullptr;  // too old an ONNX Runtime: the function bodies run
  return switch_ort::guarded(api, [&] {
    switch_ops::kernels();  // a wrong $SWITCH_KERNELS is told here, not in the middle of a run
    switch_ort::check(api, api->AddCustomOpDomain(options, switch_ort::domain_of(api)));
  });
}
