#include "model.h"

#include <nlohmann/json.hpp>

#include "backend_ort.h"
#include "error.h"
#include "library.h"

namespace switch_runtime {
namespace {

constexpr int32_t kMostThreads = 1024;

std::string text_or_empty(const char* text) { return text ? text : ""; }

void check_options(const switch_load_options& options) {
  std::vector<std::string> problems;
  const std::string device = text_or_empty(options.device);
  if (!device.empty() && device != "cpu") {
    problems.push_back("device is \"" + device + "\", expected \"cpu\"");
  }
  if (options.threads < 0 || options.threads > kMostThreads) {
    problems.push_back("threads is " + std::to_string(options.threads) + ", expected 0 to " +
                       std::to_string(kMostThreads));
  }
  if (problems.empty()) return;
  throw Error(SWITCH_INVALID_ARGUMENT, list_problems("these options cannot be used", problems));
}

}  // namespace

std::unique_ptr<Model> load_model(const std::string& directory,
                                  const switch_load_options& options) {
  check_options(options);
  auto model = std::make_unique<Model>();
  model->config = read_config(directory);
  const std::string plugin = find_plugin_library(text_or_empty(options.plugin_library));
  const OrtLibrary& library = open_ort_library(text_or_empty(options.ort_library));
  Engine engine = load_ort_engine(library, model->config, {options.threads, plugin});
  model->backend = std::move(engine.backend);

  nlohmann::json description = {
      {"directory", directory},
      {"device", "cpu"},
      {"threads", engine.threads},
      {"onnxruntime", library.version},
      {"onnxruntime_library", library.path},
      {"plugin_library", plugin.empty() ? nlohmann::json() : nlohmann::json(plugin)},
      {"switch_json", nlohmann::json::parse(model->config.document)},
  };
  // Paths need not be UTF-8.
  model->description = description.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return model;
}

}  // namespace switch_runtime
