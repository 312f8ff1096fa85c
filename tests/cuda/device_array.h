// Arrays on the device of the CUDA tests: a GPU's, or the emulator's.
#ifndef SWITCH_TESTS_DEVICE_ARRAY_H_
#define SWITCH_TESTS_DEVICE_ARRAY_H_

#include <cuda_runtime.h>

#include "cuda/switch_cuda.h"
#include "kernel_cases.h"

namespace switch_tests {

inline void expect_success(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

// `count` elements; starts as 0xff bytes, which is NaN in every float type.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count = 0) : count_(count) {
    expect_success(cudaMalloc(&data_, bytes()));
    expect_success(cudaMemset(data_, 0xff, bytes()));
  }
  explicit DeviceArray(const Array<T>& values) : DeviceArray(values.size()) {
    expect_success(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice));
  }
  DeviceArray(DeviceArray&& other) noexcept { swap(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceArray() {
    if (data_) cudaFree(data_);
  }

  // Waits for the device. Errors of kernels show here.
  Array<T> values() const {
    expect_success(cudaDeviceSynchronize());
    Array<T> result(count_);
    expect_success(cudaMemcpy(result.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return result;
  }
  T* data() const { return static_cast<T*>(data_); }
  int64_t size() const { return count_; }
  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(T); }

 private:
  void swap(DeviceArray& other) {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
  }

  void* data_ = nullptr;
  int64_t count_ = 0;
};

// A stack of weights there.
struct DeviceStack {
  DeviceArray<char> values;
  DeviceArray<float> scales;
  Weight weight;

  explicit DeviceStack(const Stack& stack)
      : values(stack.values), scales(stack.scales), weight(stack.weight) {
    weight.data = values.data();
    if (weight.scale) weight.scale = scales.data();
  }
};

// A weight as the C functions take it.
inline switch_cuda_weight as_c(const Weight& w) {
  return {w.data, w.scale,  static_cast<int32_t>(w.type), static_cast<int32_t>(w.block), w.count,
          w.rows, w.columns};
}

// float32 values as an array of `type`, rounded to nearest even, and what it holds then.
struct Typed {
  Array<char> bits;
  Array<float> values;
};
Typed as_type(WeightType type, const Array<float>& values);
// Values of a type's bits.
Array<float> from_type(WeightType type, const Array<char>& bits);

// Run `body` in every order of the emulator's threads, for capability `major`; once on a GPU,
// where only what that GPU runs is run.
void in_every_order(int major, const std::string& what, const std::function<void()>& body);

}  // namespace switch_tests

#endif  // SWITCH_TESTS_DEVICE_ARRAY_H_
