#include "device_array.h"

#include "reference.h"

namespace switch_tests {
namespace {

int64_t size_of(WeightType type) { return type == WeightType::kFloat32 ? 4 : 2; }

// The bits of a half type that holds `value` exactly.
uint16_t half_bits(WeightType type, float value) {
  if (type == WeightType::kBFloat16) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
  }
  const _Float16 half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

}  // namespace

Typed as_type(WeightType type, const Array<float>& values) {
  Typed typed{Array<char>(values.size() * size_of(type)), Array<float>(values.size())};
  for (int64_t i = 0; i < values.size(); ++i) {
    typed.values[i] = static_cast<float>(switch_ops::reference::round_to(type, values[i]));
    if (type == WeightType::kFloat32) {
      std::memcpy(typed.bits.data() + 4 * i, &typed.values[i], 4);
    } else {
      const uint16_t bits = half_bits(type, typed.values[i]);
      std::memcpy(typed.bits.data() + 2 * i, &bits, 2);
    }
  }
  return typed;
}

Array<float> from_type(WeightType type, const Array<char>& bits) {
  const int64_t count = bits.size() / size_of(type);
  const Weight row{type, bits.data(), nullptr, 1, count};
  Array<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(switch_ops::reference::value(row, 0, 0, i));
  }
  return values;
}

}  // namespace switch_tests
