// Matrices in nn.Linear layout, as the mapped file holds them: docs/operators.md, "Weights".
//
// constexpr: for nvcc, which lets such functions run on a device (--expt-relaxed-constexpr).
#ifndef SWITCH_CORE_WEIGHT_H_
#define SWITCH_CORE_WEIGHT_H_

#include <cstdint>

namespace switch_ops {

enum class WeightType : int32_t { kFloat32 = 0, kFloat16, kBFloat16, kInt8, kInt4 };

constexpr bool is_quantised(WeightType type) {
  return type == WeightType::kInt8 || type == WeightType::kInt4;
}

// One matrix [rows, columns], or a stack of `count` of them, row-major. rows are outputs.
struct Weight {
  WeightType type = WeightType::kFloat32;
  const void* data = nullptr;
  const float* scale = nullptr;  // quantised only: [count, rows, blocks()]
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t block = 0;  // columns that share a scale; 0: a whole row
  int64_t count = 1;

  constexpr int64_t row_bytes() const {
    switch (type) {
      case WeightType::kFloat32: return columns * 4;
      case WeightType::kFloat16: return columns * 2;
      case WeightType::kBFloat16: return columns * 2;
      case WeightType::kInt8: return columns;
      case WeightType::kInt4: return columns / 2;
    }
    return 0;
  }

  constexpr int64_t blocks() const { return block == 0 ? 1 : (columns + block - 1) / block; }

  // Rows from `first` on of the matrix `index` of the stack.
  constexpr const char* row(int64_t first, int64_t index = 0) const {
    return static_cast<const char*>(data) + (index * rows + first) * row_bytes();
  }
  constexpr const float* row_scale(int64_t first, int64_t index = 0) const {
    return scale ? scale + (index * rows + first) * blocks() : nullptr;
  }

  constexpr Weight slice(int64_t index) const {
    Weight one = *this;
    one.data = row(0, index);
    one.scale = row_scale(0, index);
    one.count = 1;
    return one;
  }
};

}  // namespace switch_ops

#endif  // SWITCH_CORE_WEIGHT_H_
