// Named tensors over memory that somebody else owns, and the memory itself.
#ifndef SWITCH_SRC_TENSOR_H_
#define SWITCH_SRC_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace switch_runtime {

enum class Type { kFloat32, kInt32, kInt64 };

inline size_t size_of(Type type) { return type == Type::kInt64 ? 8 : 4; }

inline const char* name_of(Type type) {
  switch (type) {
    case Type::kFloat32: return "float32";
    case Type::kInt32: return "int32";
    case Type::kInt64: return "int64";
  }
  return "?";
}

// Elements of a shape; std::bad_alloc where they cannot be addressed.
inline size_t count_of(const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (int64_t axis : shape) {
    const auto size = static_cast<size_t>(axis);
    if (axis < 0 || (size != 0 && count > std::numeric_limits<size_t>::max() / 16 / size)) {
      throw std::bad_alloc();
    }
    count *= size;
  }
  return count;
}

// Uninitialised memory: pages that are never written cost nothing.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : data_(std::aligned_alloc(64, (bytes / 64 + 1) * 64)) {
    if (!data_) throw std::bad_alloc();
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
};

// A view: whoever made it keeps `data` alive.
struct Tensor {
  std::string name;
  Type type = Type::kFloat32;
  std::vector<int64_t> shape;
  void* data = nullptr;

  size_t bytes() const { return count_of(shape) * size_of(type); }
};

// A tensor with its memory.
struct Array {
  Tensor tensor;
  Buffer memory;

  Array(std::string name, Type type, std::vector<int64_t> shape)
      : tensor{std::move(name), type, std::move(shape), nullptr}, memory(tensor.bytes()) {
    tensor.data = memory.as<void>();
  }
};

}  // namespace switch_runtime

#endif  // SWITCH_SRC_TENSOR_H_
