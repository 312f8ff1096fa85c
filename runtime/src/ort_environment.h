// ONNX Runtime's one environment, with the thread pool that all models of the process share.
#ifndef SWITCH_SRC_ORT_ENVIRONMENT_H_
#define SWITCH_SRC_ORT_ENVIRONMENT_H_

#include <onnxruntime_c_api.h>

namespace switch_runtime {

struct OrtEnvironment {
  OrtEnv* env;
  int threads;
};

// The first call makes it with `threads` (0: one per available core) and fixes that size; later 0
// means whatever it is. Throws Error SWITCH_INVALID_ARGUMENT for another size.
const OrtEnvironment& ort_environment(const OrtApi* api, int threads);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_ORT_ENVIRONMENT_H_
