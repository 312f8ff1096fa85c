// A loaded model directory.
#ifndef SWITCH_SRC_MODEL_H_
#define SWITCH_SRC_MODEL_H_

#include <memory>
#include <string>

#include "backend.h"
#include "config.h"

namespace switch_runtime {

struct Model {
  Config config;
  std::unique_ptr<Backend> backend;
  std::string description;  // JSON, see switch_model_describe
};

std::unique_ptr<Model> load_model(const std::string& directory, const switch_load_options& options);

}  // namespace switch_runtime

#endif  // SWITCH_SRC_MODEL_H_
