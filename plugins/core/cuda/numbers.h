// The number types of the CUDA kernels, as bits in 32-bit words, and their fragments' products.
#ifndef SWITCH_CORE_CUDA_NUMBERS_H_
#define SWITCH_CORE_CUDA_NUMBERS_H_

#include <cuda_runtime.h>
#include <switch_ptx.h>

#include "../weight.h"

namespace switch_ops::cuda {

// Two values of 16 bits in a word, the first in the low half.
struct BFloat16 {
  static constexpr WeightType kType = WeightType::kBFloat16;
  static __device__ __forceinline__ float2 unpack(uint32_t two) {
    return make_float2(__uint_as_float(two << 16), __uint_as_float(two & 0xffff0000u));
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    return ptx::pack_bf16(low, high);
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    ptx::multiply_bf16(d, a, b);
  }
};

struct Float16 {
  static constexpr WeightType kType = WeightType::kFloat16;
  static __device__ __forceinline__ float2 unpack(uint32_t two) {
    return make_float2(ptx::f16_to_float(static_cast<uint16_t>(two & 0xffffu)),
                       ptx::f16_to_float(static_cast<uint16_t>(two >> 16)));
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    return ptx::pack_f16(low, high);
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    ptx::multiply_f16(d, a, b);
  }
};

// The value at `index` of an array of kFloat32, kFloat16 or kBFloat16.
__device__ __forceinline__ float load_value(const void* array, WeightType type, int64_t index) {
  if (type == WeightType::kFloat32) return static_cast<const float*>(array)[index];
  const uint32_t bits = static_cast<const uint16_t*>(array)[index];
  return type == WeightType::kBFloat16 ? BFloat16::unpack(bits).x : Float16::unpack(bits).x;
}

__device__ __forceinline__ void store_value(void* array, WeightType type, int64_t index,
                                            float value) {
  if (type == WeightType::kFloat32) {
    static_cast<float*>(array)[index] = value;
  } else if (type == WeightType::kBFloat16) {
    static_cast<uint16_t*>(array)[index] = static_cast<uint16_t>(BFloat16::pack(value, 0));
  } else {
    static_cast<uint16_t*>(array)[index] = static_cast<uint16_t>(Float16::pack(value, 0));
  }
}

// `value` as a variable of `type` would hold it.
__device__ __forceinline__ float round_to(WeightType type, float value) {
  if (type == WeightType::kFloat32) return value;
  return type == WeightType::kBFloat16 ? BFloat16::unpack(BFloat16::pack(value, 0)).x
                                       : Float16::unpack(Float16::pack(value, 0)).x;
}

// `x` in units of 1 / factor as the low byte of a word (docs/operators.md, "Quantised products").
__device__ __forceinline__ uint32_t quantised_byte(float x, float factor) {
  return static_cast<uint32_t>(__float2int_rn(x * factor)) & 0xffu;
}
__device__ __forceinline__ float largest(float4 v) {
  return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
}

// Eight codes of int4 (docs/operators.md) as signed bytes: those at 0, 2, 4, 6 and at 1, 3, 5, 7.
__device__ __forceinline__ uint2 unpack_int4(uint32_t codes) {
  const auto signed_bytes = [](uint32_t v) {
    return ((v | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
  };
  return make_uint2(signed_bytes(codes & 0x0f0f0f0fu), signed_bytes((codes >> 4) & 0x0f0f0f0fu));
}

}  // namespace switch_ops::cuda

#endif  // SWITCH_CORE_CUDA_NUMBERS_H_
