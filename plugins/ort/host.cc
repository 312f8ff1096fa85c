#include "host.h"

#include <atomic>
#include <memory>
#include <new>
#include <stdexcept>

namespace switch_ort {

namespace {

template <typename T>
struct Release {
  void(ORT_API_CALL* release)(T*);
  void operator()(T* object) const { release(object); }
};

Array read(const OrtApi* api, const OrtValue* value) {
  Array array;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api->GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, Release<OrtTensorTypeAndShapeInfo>> owned(
      info, {api->ReleaseTensorTypeAndShapeInfo});
  check(api, api->GetTensorElementType(info, &array.type));
  check(api, api->GetDimensionsCount(info, &array.rank));
  if (array.rank > kMostAxes) throw std::invalid_argument("a tensor has more than 8 axes");
  check(api, api->GetDimensions(info, array.shape, array.rank));
  void* data = nullptr;
  check(api, api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  array.data = data;
  return array;
}

switch_ops::WeightType weight_type(const char* name, ONNXTensorElementDataType type) {
  using switch_ops::WeightType;
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return WeightType::kFloat32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return WeightType::kFloat16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return WeightType::kBFloat16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return WeightType::kInt8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return WeightType::kInt4;
    default:
      throw std::invalid_argument(std::string(name) + ": a weight has ONNX type " +
                                  std::to_string(static_cast<int>(type)) +
                                  ", expected float, float16, bfloat16, int8 or uint8");
  }
}

}  // namespace

void check(const OrtApi* api, OrtStatus* status) {
  if (!status) return;
  const std::unique_ptr<OrtStatus, Release<OrtStatus>> owned(status, {api->ReleaseStatus});
  throw std::runtime_error(api->GetErrorMessage(status));
}

void expect(const char* name, const char* what, int64_t found, int64_t expected) {
  if (found == expected) return;
  throw std::invalid_argument(std::string(name) + ": " + what + " is " + std::to_string(found) +
                              ", expected " + std::to_string(expected));
}

int64_t Array::count() const {
  int64_t product = 1;
  for (size_t i = 0; i < rank; ++i) product *= shape[i];
  return product;
}

std::string Info::text(const char* attribute, const char* otherwise) const {
  size_t size = 0;
  if (OrtStatus* status = api_->KernelInfoGetAttribute_string(info_, attribute, nullptr, &size)) {
    api_->ReleaseStatus(status);
    return otherwise;
  }
  std::string value(size, '\0');
  check(api_, api_->KernelInfoGetAttribute_string(info_, attribute, value.data(), &size));
  value.resize(size ? size - 1 : 0);  // its end is counted
  return value;
}

int64_t Info::integer(const char* attribute, int64_t otherwise) const {
  int64_t value = otherwise;
  if (OrtStatus* status = api_->KernelInfoGetAttribute_int64(info_, attribute, &value)) {
    api_->ReleaseStatus(status);
    return otherwise;
  }
  return value;
}

float Info::real(const char* attribute, float otherwise) const {
  float value = otherwise;
  if (OrtStatus* status = api_->KernelInfoGetAttribute_float(info_, attribute, &value)) {
    api_->ReleaseStatus(status);
    return otherwise;
  }
  return value;
}

std::optional<Array> Info::constant(size_t index) const {
  size_t count = 0;
  check(api_, api_->KernelInfo_GetInputCount(info_, &count));
  if (index >= count) return Array();
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api_, api_->KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  if (!is_constant || !value) return std::nullopt;
  return read(api_, value);
}

Call::Call(const OrtApi* api, OrtKernelContext* context, const char* name)
    : api_(api), context_(context), name_(name) {
  check(api, api->KernelContext_GetInputCount(context, &inputs_));
}

bool Call::has(size_t index) const {
  if (index >= inputs_) return false;
  const OrtValue* value = nullptr;
  check(api_, api_->KernelContext_GetInput(context_, index, &value));
  return value != nullptr;
}

Array Call::input(size_t index) const {
  if (index >= inputs_) return {};
  const OrtValue* value = nullptr;
  check(api_, api_->KernelContext_GetInput(context_, index, &value));
  return value ? read(api_, value) : Array();
}

Array Call::input(size_t index, const char* what, size_t rank) const {
  const Array array = input(index);
  expect(name_, (std::string("number of axes of ") + what).c_str(),
         static_cast<int64_t>(array.rank), static_cast<int64_t>(rank));
  return array;
}

void* Call::raw_output(size_t index, const int64_t* shape, size_t rank) const {
  OrtValue* value = nullptr;
  check(api_, api_->KernelContext_GetOutput(context_, index, shape, rank, &value));
  if (!value) return nullptr;
  void* data = nullptr;
  check(api_, api_->GetTensorMutableData(value, &data));
  return data;
}

void Call::run(int64_t tasks, void (*task)(void*, int64_t), void* state) {
  struct Run {
    void (*task)(void*, int64_t);
    void* state;
    std::atomic<bool> failed{false};
  } run{task, state};
  check(api_, api_->KernelContext_ParallelFor(
                  context_,
                  [](void* user, size_t i) {
                    // The pool's threads have nobody who would catch it; only memory can run out.
                    auto* run = static_cast<Run*>(user);
                    try {
                      run->task(run->state, static_cast<int64_t>(i));
                    } catch (const std::exception&) {
                      run->failed = true;
                    }
                  },
                  static_cast<size_t>(tasks), 0, &run));
  if (run.failed) throw std::bad_alloc();
}

WeightInput::WeightInput(const Info& info, size_t weight, size_t scale)
    : weight_(weight), scale_(scale), block_(info.integer("block", 0)) {
  if (block_ != 0 && (block_ < 32 || (block_ & (block_ - 1)) != 0)) {
    throw std::invalid_argument(std::string(info.name()) + ": block is " + std::to_string(block_) +
                                ", expected 0 or a power of two from 32 on");
  }
  const std::optional<Array> values = info.constant(weight), scales = info.constant(scale);
  if (values && scales) constant_ = make(info.name(), *values, *scales);
}

switch_ops::Weight WeightInput::get(const Call& call) const {
  return constant_ ? *constant_ : make(call.name(), call.input(weight_), call.input(scale_));
}

switch_ops::Weight WeightInput::make(const char* name, const Array& weight,
                                     const Array& scale) const {
  if (weight.rank != 2 && weight.rank != 3) {
    expect(name, "number of axes of a weight", static_cast<int64_t>(weight.rank), 2);
  }
  switch_ops::Weight made;
  made.type = weight_type(name, weight.type);
  made.data = weight.data;
  made.count = weight.rank == 3 ? weight.shape[0] : 1;
  made.rows = weight.shape[weight.rank - 2];
  made.columns = weight.last() * (made.type == switch_ops::WeightType::kInt4 ? 2 : 1);
  made.block = block_;
  if (!switch_ops::is_quantised(made.type)) return made;
  if (scale.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    throw std::invalid_argument(std::string(name) + ": a quantised weight has no float scale");
  }
  expect(name, "number of scales", scale.count(), made.count * made.rows * made.blocks());
  made.scale = scale.as<float>();
  return made;
}

}  // namespace switch_ort
