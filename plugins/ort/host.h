// What the operators need of ONNX Runtime, through the C API that the host hands over: the library
// links nothing of it.
#ifndef SWITCH_ORT_HOST_H_
#define SWITCH_ORT_HOST_H_

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "operators.h"

namespace switch_ort {

// Throws std::runtime_error with ONNX Runtime's own message. A process may hold two copies of ONNX
// Runtime, so that every object keeps the API of its own.
void check(const OrtApi* api, OrtStatus* status);

constexpr size_t kMostAxes = 8;

// A tensor of the host.
struct Array {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  int64_t shape[kMostAxes] = {};
  const void* data = nullptr;

  bool empty() const { return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED; }
  int64_t last() const { return rank ? shape[rank - 1] : 1; }
  int64_t count() const;
  // Rows of the last axis.
  int64_t rows() const { return last() ? count() / last() : 0; }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// What a node says when its kernel is made.
class Info {
 public:
  Info(const OrtApi* api, const OrtKernelInfo* info, const char* name)
      : api_(api), info_(info), name_(name) {}

  const char* name() const { return name_; }
  std::string text(const char* attribute, const char* otherwise) const;
  int64_t integer(const char* attribute, int64_t otherwise) const;
  float real(const char* attribute, float otherwise) const;
  // The input if it is a constant of the graph: then it stays where it is.
  std::optional<Array> constant(size_t index) const;

 private:
  const OrtApi* api_;
  const OrtKernelInfo* info_;
  const char* name_;
};

// One run of a kernel.
class Call : public switch_ops::Parallel {
 public:
  Call(const OrtApi* api, OrtKernelContext* context, const char* name);

  const char* name() const { return name_; }
  bool has(size_t index) const;
  Array input(size_t index) const;
  // An input of `rank` axes; throws std::invalid_argument for another.
  Array input(size_t index, const char* what, size_t rank) const;
  // Null where nobody wants the output.
  template <typename T>
  T* output(size_t index, const std::vector<int64_t>& shape) const {
    return static_cast<T*>(raw_output(index, shape.data(), shape.size()));
  }
  // An output of the same shape as an input.
  float* output_like(size_t index, const Array& input) const {
    return static_cast<float*>(raw_output(index, input.shape, input.rank));
  }

  switch_ops::Context context() const { return {switch_ops::kernels(), const_cast<Call&>(*this)}; }
  void run(int64_t tasks, void (*task)(void*, int64_t), void* state) override;

 private:
  void* raw_output(size_t index, const int64_t* shape, size_t rank) const;

  const OrtApi* api_;
  OrtKernelContext* context_;
  const char* name_;
  size_t inputs_ = 0;
};

// Throws std::invalid_argument: "NAME: WHAT is FOUND, expected EXPECTED".
void expect(const char* name, const char* what, int64_t found, int64_t expected);

// A weight and its scale, which are constants of the graph in every exported file.
class WeightInput {
 public:
  WeightInput(const Info& info, size_t weight, size_t scale);
  switch_ops::Weight get(const Call& call) const;

 private:
  switch_ops::Weight make(const char* name, const Array& weight, const Array& scale) const;

  size_t weight_, scale_;
  int64_t block_;
  std::optional<switch_ops::Weight> constant_;
};

}  // namespace switch_ort

#endif  // SWITCH_ORT_HOST_H_
