// The graphs of a model directory on ONNX Runtime's CPU provider.
#ifndef SWITCH_SRC_BACKEND_ORT_H_
#define SWITCH_SRC_BACKEND_ORT_H_

#include <memory>
#include <string>

#include "backend.h"
#include "config.h"
#include "library.h"

namespace switch_runtime {

struct EngineOptions {
  int threads = 0;             // 0: what the process already has, else one per available core
  std::string plugin_library;  // "": none, the operator's function bodies run
};

struct Engine {
  std::unique_ptr<Backend> backend;
  int threads;
};

// Load both graphs. Throws Error SWITCH_INVALID_MODEL if a graph is damaged or does not have the
// listed tensors, SWITCH_INVALID_ARGUMENT for a second size of the thread pool,
// SWITCH_MISSING_LIBRARY for a plugin library that cannot be used.
Engine load_ort_engine(const OrtLibrary& library, const Config& config,
                       const EngineOptions& options);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_BACKEND_ORT_H_
