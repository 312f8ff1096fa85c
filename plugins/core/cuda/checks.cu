#include <stdexcept>

#include "checks.h"

namespace switch_ops::cuda {

void Checks::require(bool holds, const std::string& what, const std::string& expected) {
  if (!holds) problems_ += "\n  - " + what + ", expected " + expected;
}

void Checks::float_type(WeightType type, const std::string& what) {
  const auto number = static_cast<int>(type);
  require(number >= 0 && number <= static_cast<int>(WeightType::kBFloat16),
          what + " is " + std::to_string(number), "0 (float32), 1 (float16) or 2 (bfloat16)");
}

void Checks::weight(const Weight& w, const std::string& what) {
  const auto number = static_cast<int>(w.type);
  const bool known = number >= 0 && number <= static_cast<int>(WeightType::kInt4);
  require(known, what + " has type " + std::to_string(number), "0 to 4");
  require(w.count > 0 && w.rows >= 0 && w.columns > 0,
          what + " is [" + std::to_string(w.count) + ", " + std::to_string(w.rows) + ", " +
              std::to_string(w.columns) + "]",
          "at least one matrix with columns");
  if (!known) return;
  const bool whole_bytes = w.type != WeightType::kInt4 || w.columns % 2 == 0;
  require(whole_bytes && w.row_bytes() % 16 == 0,
          what + " has rows of " + std::to_string(w.columns) + " columns",
          "a multiple of 16 bytes a row");
  const bool block = w.block == 0 || (w.block >= 32 && (w.block & (w.block - 1)) == 0);
  require(block, what + " has blocks of " + std::to_string(w.block),
          "0 or a power of two from 32 on");
}

void Checks::array(const void* pointer, const std::string& what, int alignment) {
  require(pointer != nullptr, what + " is null", "a device pointer");
  require(reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(alignment) == 0,
          what + " is at an odd address", "a multiple of " + std::to_string(alignment));
}

void Checks::weight_arrays(const Weight& w, const std::string& what) {
  array(w.data, what, 16);
  if (is_quantised(w.type)) array(w.scale, "the scale of " + what, 4);
}

void Checks::finish() const {
  if (!problems_.empty()) throw std::invalid_argument(name_ + ":" + problems_);
}

}  // namespace switch_ops::cuda
