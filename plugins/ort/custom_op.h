// An OrtCustomOp from a kernel class that has kName, kInputs, kOutputs, a constructor that takes
// Info, and compute(Call&). Exceptions end here: ONNX Runtime gets a status.
#ifndef SWITCH_ORT_CUSTOM_OP_H_
#define SWITCH_ORT_CUSTOM_OP_H_

#include <exception>
#include <iterator>
#include <memory>
#include <stdexcept>

#include "host.h"

namespace switch_ort {

struct Slot {
  ONNXTensorElementDataType type;
  bool optional = false;
};

constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
constexpr auto kWeight = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // any type

template <class Body>
OrtStatusPtr guarded(const OrtApi* api, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const std::invalid_argument& error) {
    return api->CreateStatus(ORT_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return api->CreateStatus(ORT_FAIL, "Failed to allocate memory in an ai.switch kernel");
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
}

template <class Kernel>
struct CustomOp : OrtCustomOp {
  using Self = const OrtCustomOp*;

  CustomOp() : OrtCustomOp{} {
    version = ORT_API_VERSION;
    GetName = [](Self) { return Kernel::kName; };
    GetExecutionProviderType = [](Self) -> const char* { return nullptr; };
    GetInputTypeCount = [](Self) { return std::size(Kernel::kInputs); };
    GetInputType = [](Self, size_t i) { return Kernel::kInputs[i].type; };
    GetInputCharacteristic = [](Self, size_t i) { return characteristic(Kernel::kInputs[i]); };
    GetOutputTypeCount = [](Self) { return std::size(Kernel::kOutputs); };
    GetOutputType = [](Self, size_t i) { return Kernel::kOutputs[i].type; };
    GetOutputCharacteristic = [](Self, size_t i) { return characteristic(Kernel::kOutputs[i]); };
    GetInputMemoryType = [](Self, size_t) { return OrtMemTypeDefault; };
    GetVariadicInputMinArity = [](Self) { return 0; };
    GetVariadicInputHomogeneity = [](Self) { return 0; };
    GetVariadicOutputMinArity = [](Self) { return 0; };
    GetVariadicOutputHomogeneity = [](Self) { return 0; };
    GetStartVersion = [](Self) { return 1; };
    GetEndVersion = [](Self) { return 1; };
    CreateKernelV2 = [](Self, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return guarded(api, [&] {
        try {
          *kernel = new Held{api, Kernel(Info(api, info, Kernel::kName))};
        } catch (const std::invalid_argument& error) {
          // ONNX Runtime does not say which node it was making.
          const std::string text = error.what(), name = Kernel::kName;
          if (text.rfind(name, 0) == 0) throw;
          throw std::invalid_argument(name + ": " + text);
        }
      });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const auto* held = static_cast<const Held*>(kernel);
      return guarded(held->api, [&] {
        Call call(held->api, context, Kernel::kName);
        held->kernel.compute(call);
      });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Held*>(kernel); };
  }

  struct Held {
    const OrtApi* api;
    Kernel kernel;
  };

  static OrtCustomOpInputOutputCharacteristic characteristic(const Slot& slot) {
    return slot.optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  }
};

}  // namespace switch_ort

#endif  // SWITCH_ORT_CUSTOM_OP_H_
