#include "backend_ort.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>

#include "error.h"
#include "ort_environment.h"
#include "ort_handle.h"

namespace switch_runtime {
namespace {

ONNXTensorElementDataType ort_type(Type type) {
  switch (type) {
    case Type::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case Type::kInt32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case Type::kInt64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

class OrtBoundGraph : public BoundGraph {
 public:
  OrtBoundGraph(const OrtApi* api, OrtSession* session) : api_(api), session_(session) {
    OrtIoBinding* binding = nullptr;
    call(api->CreateIoBinding(session, &binding));
    binding_ = own(binding, api->ReleaseIoBinding);
    OrtMemoryInfo* memory = nullptr;
    call(api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    memory_ = own(memory, api->ReleaseMemoryInfo);
  }

  void bind_input(const Tensor& tensor) {
    call(api_->BindInput(binding_.get(), tensor.name.c_str(), view(tensor)));
  }

  void bind_output(const Tensor& tensor) {
    call(api_->BindOutput(binding_.get(), tensor.name.c_str(), view(tensor)));
  }

  void run() override { call(api_->RunWithBinding(session_, nullptr, binding_.get())); }

 private:
  OrtValue* view(const Tensor& tensor) {
    OrtValue* value = nullptr;
    call(api_->CreateTensorWithDataAsOrtValue(memory_.get(), tensor.data, tensor.bytes(),
                                              tensor.shape.data(), tensor.shape.size(),
                                              ort_type(tensor.type), &value));
    values_.push_back(own(value, api_->ReleaseValue));
    return value;
  }

  void call(OrtStatus* status) { check(api_, status, SWITCH_FAILED, "ONNX Runtime failed"); }

  const OrtApi* api_;
  OrtSession* session_;
  OrtHandle<OrtIoBinding> binding_;
  OrtHandle<OrtMemoryInfo> memory_;
  std::vector<OrtHandle<OrtValue>> values_;
};

// Compares the tensors of a loaded graph with those that switch.json lists.
class SessionCheck {
 public:
  SessionCheck(const OrtApi* api, OrtSession* session, const std::string& path)
      : api_(api), session_(session), path_(path) {
    call(api->GetAllocatorWithDefaultOptions(&allocator_));
  }

  void run(const GraphSpec& graph) {
    compare(graph.inputs, read(true), true);
    compare(graph.outputs, read(false), false);
    if (problems_.empty()) return;
    throw Error(SWITCH_INVALID_MODEL,
                list_problems(path_ + " is not the graph that switch.json describes", problems_));
  }

 private:
  struct Found {
    ONNXTensorElementDataType type;
    std::vector<int64_t> shape;  // -1: any
  };

  std::map<std::string, Found> read(bool inputs) {
    std::map<std::string, Found> result;
    size_t count = 0;
    call(inputs ? api_->SessionGetInputCount(session_, &count)
                : api_->SessionGetOutputCount(session_, &count));
    for (size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      call(inputs ? api_->SessionGetInputName(session_, i, allocator_, &name)
                  : api_->SessionGetOutputName(session_, i, allocator_, &name));
      const std::string key = name;
      call(api_->AllocatorFree(allocator_, name));
      OrtTypeInfo* info = nullptr;
      call(inputs ? api_->SessionGetInputTypeInfo(session_, i, &info)
                  : api_->SessionGetOutputTypeInfo(session_, i, &info));
      const auto owned = own(info, api_->ReleaseTypeInfo);
      result.emplace(key, describe(info));
    }
    return result;
  }

  Found describe(OrtTypeInfo* info) {
    Found found{ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    call(api_->CastTypeInfoToTensorInfo(info, &tensor));
    if (!tensor) return found;
    call(api_->GetTensorElementType(tensor, &found.type));
    size_t rank = 0;
    call(api_->GetDimensionsCount(tensor, &rank));
    found.shape.resize(rank);
    call(api_->GetDimensions(tensor, found.shape.data(), rank));
    return found;
  }

  void compare(const std::vector<TensorSpec>& listed, const std::map<std::string, Found>& found,
               bool inputs) {
    const std::string kind = inputs ? "input " : "output ";
    for (const TensorSpec& tensor : listed) {
      const auto entry = found.find(tensor.name);
      if (entry == found.end()) {
        problems_.push_back(kind + tensor.name + " is missing");
      } else if (!agrees(tensor, entry->second)) {
        problems_.push_back(kind + tensor.name + " has another type or shape, expected " +
                            name_of(tensor.type) + " of rank " +
                            std::to_string(tensor.shape.size()));
      }
    }
    // An input that is not listed would never be fed.
    if (inputs && found.size() > listed.size()) problems_.push_back("it has more inputs");
  }

  static bool agrees(const TensorSpec& listed, const Found& found) {
    if (ort_type(listed.type) != found.type || listed.shape.size() != found.shape.size()) {
      return false;
    }
    for (size_t i = 0; i < found.shape.size(); ++i) {
      const Axis& axis = listed.shape[i];
      const bool any = !axis.letter.empty();
      if (found.shape[i] >= 0 && (any || axis.size != found.shape[i])) return false;
    }
    return true;
  }

  void call(OrtStatus* status) { check(api_, status, SWITCH_INVALID_MODEL, path_); }

  const OrtApi* api_;
  OrtSession* session_;
  const std::string& path_;
  OrtAllocator* allocator_ = nullptr;
  std::vector<std::string> problems_;
};

class OrtBackend : public Backend {
 public:
  OrtBackend(const OrtApi* api, const OrtEnvironment& environment, const EngineOptions& options)
      : api_(api), environment_(environment), options_(options) {}

  void load(GraphKind kind, const std::string& directory, const GraphSpec& graph) {
    const std::string path = directory + "/" + graph.file;
    auto session = create(path);
    SessionCheck(api_, session.get(), path).run(graph);
    (kind == GraphKind::kEncoder ? encoder_ : decoder_) = std::move(session);
  }

  std::unique_ptr<BoundGraph> bind(GraphKind graph, const std::vector<Tensor>& inputs,
                                   const std::vector<Tensor>& outputs) override {
    const auto& session = graph == GraphKind::kEncoder ? encoder_ : decoder_;
    auto bound = std::make_unique<OrtBoundGraph>(api_, session.get());
    for (const Tensor& tensor : inputs) bound->bind_input(tensor);
    for (const Tensor& tensor : outputs) bound->bind_output(tensor);
    return bound;
  }

 private:
  OrtHandle<OrtSession> create(const std::string& path) {
    try {
      return create(path, true);
    } catch (const Error& error) {
      // The host made ONNX Runtime's environment before us, without a global pool. The message is
      // the only sign of it.
      if (std::string(error.what()).find("GlobalThreadPools") == std::string::npos) throw;
      return create(path, false);
    }
  }

  OrtHandle<OrtSession> create(const std::string& path, bool shared_pool) {
    OrtSessionOptions* options = nullptr;
    check(api_, api_->CreateSessionOptions(&options), SWITCH_FAILED, path);
    const auto owned = own(options, api_->ReleaseSessionOptions);
    configure(options, shared_pool);
    OrtSession* session = nullptr;
    check(api_, api_->CreateSession(environment_.env, path.c_str(), options, &session),
          SWITCH_INVALID_MODEL, path + " cannot be loaded");
    return own(session, api_->ReleaseSession);
  }

  // The one place of session settings.
  void configure(OrtSessionOptions* options, bool shared_pool) {
    const auto call = [&](OrtStatus* status) {
      check(api_, status, SWITCH_FAILED, "ONNX Runtime refuses a session setting");
    };
    // Shapes change with every call and cache size; a plan per shape would only pile up.
    call(api_->DisableMemPattern(options));
    call(api_->SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_FATAL));
    if (shared_pool) {
      call(api_->DisablePerSessionThreads(options));
    } else {
      call(api_->SetIntraOpNumThreads(options, environment_.threads));
      // Two pools that spin would fight for the same cores.
      call(api_->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
    }
    if (!options_.plugin_library.empty()) {
      check(api_, api_->RegisterCustomOpsLibrary_V2(options, options_.plugin_library.c_str()),
            SWITCH_MISSING_LIBRARY, "plugin library " + options_.plugin_library);
    }
  }

  const OrtApi* api_;
  const OrtEnvironment& environment_;
  EngineOptions options_;
  OrtHandle<OrtSession> encoder_;
  OrtHandle<OrtSession> decoder_;
};

}  // namespace

Engine load_ort_engine(const OrtLibrary& library, const Config& config,
                       const EngineOptions& options) {
  const OrtEnvironment& environment = ort_environment(library.api, options.threads);
  auto backend = std::make_unique<OrtBackend>(library.api, environment, options);
  backend->load(GraphKind::kEncoder, config.directory, config.encoder);
  if (config.decoder) backend->load(GraphKind::kDecoder, config.directory, *config.decoder);
  return Engine{std::move(backend), environment.threads};
}

}  // namespace switch_runtime
